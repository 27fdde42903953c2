"""Estimates of KL(policy || reference) from tokens that the policy sampled.

logp, reference: (N,) log-probs in nats of the sampled tokens under each. Returns (N,) estimates, to be averaged. The
three are named k1, k2, k3 in http://joschu.net/blog/kl-approx.html.

As part of a loss only their gradients count. Averaged over the policy's own samples that of k1 is 0, that of k2 is the
gradient of the KL, and that of k3 is the gradient of the reverse, KL(reference || policy).
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl(logp: Tensor, reference: Tensor) -> Tensor:
    """The log-ratio, k1: unbiased, noisy, may be negative."""
    return logp - reference


def kl_squared(logp: Tensor, reference: Tensor) -> Tensor:
    """Half the squared log-ratio, k2: never negative, little noise, biased where the two are far apart."""
    return (logp - reference).square() / 2


def kl_positive(logp: Tensor, reference: Tensor) -> Tensor:
    """r - 1 - log r with r = reference / policy, k3: unbiased, never negative, less noisy than k1 near 0."""
    ratio = reference - logp
    return torch.expm1(ratio) - ratio


ESTIMATORS = {"k1": kl, "k2": kl_squared, "k3": kl_positive}
"""By the names in the source."""


def adapted(coefficient: float, kl: float, target: float) -> float:
    """The next coefficient of a KL penalty that is to hold `kl` at `target`: section 2.2 of arXiv:1909.08593.

    It moves by at most 2 % a step: a tenth of the relative error, which counts up to 20 %.
    """
    return coefficient * (1 + 0.1 * min(max(kl / target - 1, -0.2), 0.2))
