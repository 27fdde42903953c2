"""Losses on pairs of a better and a worse reply.

Unless said otherwise `chosen` and `rejected` are (pairs,) log-ratios, policy minus reference, summed over the reply's
tokens, in nats, and results are (pairs,) losses, not yet averaged. `smoothing` is the probability that a label is
wrong, a number or (pairs,), at least 0 and below 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu


def dpo(chosen: Tensor, rejected: Tensor, beta: float, smoothing: Tensor | float = 0.0) -> Tensor:
    """Direct preference optimization, eq. 7 of arXiv:2305.18290, with per-pair label smoothing (cDPO)."""
    margin = beta * (chosen - rejected)
    return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)


def robust_dpo(chosen: Tensor, rejected: Tensor, beta: float, smoothing: Tensor | float) -> Tensor:
    """Provably robust DPO, eq. 12 of arXiv:2403.00409: unbiased for labels flipped with probability `smoothing`.

    Can be negative. With smoothing 0 it is `dpo`.
    """
    margin = beta * (chosen - rejected)
    unbiased = -(1 - smoothing) * logsigmoid(margin) + smoothing * logsigmoid(-margin)
    return unbiased / (1 - 2 * smoothing)


def ipo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Identity preference optimization, eq. 17 of arXiv:2310.12036, beta its tau.

    chosen, rejected: (pairs,) log-ratios *averaged* over the reply's tokens, which is how its authors ran it: the
    target margin 1 / (2 beta) would otherwise mean less for longer replies.
    """
    return (chosen - rejected - 1 / (2 * beta)).square()


def hinge(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Hinge loss on the DPO margin, from SLiC (arXiv:2305.10425) as normalised by arXiv:2309.06657."""
    return relu(1 - beta * (chosen - rejected))


def simpo(chosen: Tensor, rejected: Tensor, beta: float, gamma: float, smoothing: Tensor | float = 0.0) -> Tensor:
    """Simple preference optimization, eq. 6 of arXiv:2405.14734; no reference.

    chosen, rejected: (pairs,) log-probs averaged over the reply's tokens. gamma is the target margin, in the units of
    beta times a log-prob.
    """
    margin = beta * (chosen - rejected) - gamma
    return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)


def odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """The preference term of ORPO, eq. 7 of arXiv:2403.07691; no reference. Add it, weighted, to the nll of `chosen`.

    chosen, rejected: (pairs,) log-probs averaged over the reply's tokens, at most 0.
    """
    return -logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def _log_odds(logp: Tensor) -> Tensor:
    """log p - log(1 - p). A reply of certainty 1 has infinite odds, so p stops one rounding short of it."""
    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    return logp - torch.log(-torch.expm1(logp))


def bradley_terry(
    chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, smoothing: Tensor | float = 0.0
) -> Tensor:
    """Bradley-Terry loss of a reward model, with the margin of Llama 2 (arXiv:2307.09288, eq. 2) and soft labels.

    chosen, rejected: (pairs,) scores. margin: by how much the better score should lead, whichever that is.
    """
    lead = chosen - rejected
    return -(1 - smoothing) * logsigmoid(lead - margin) - smoothing * logsigmoid(-lead - margin)


def centering(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(chosen + rejected)^2, eq. 2 of arXiv:2312.09244: keeps scores, which pairs fix up to a constant, around 0."""
    return (chosen + rejected).square()
