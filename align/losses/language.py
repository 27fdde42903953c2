"""Language modelling."""

from __future__ import annotations

from torch import Tensor


def nll(logp: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Negative log-likelihood of tokens.

    logp: (N,) log-probs in nats of the tokens that happened. weight: a number or (N,), what each token counts.
    Returns (N,) losses.
    """
    return -logp * weight
