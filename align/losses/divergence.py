"""Estimates of KL(policy || reference) from tokens that the policy sampled.

logp, reference: (N,) log-probs in nats of the sampled tokens under each. Returns (N,) estimates, to be averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl(logp: Tensor, reference: Tensor) -> Tensor:
    """The log-ratio: unbiased, noisy, may be negative (k1 of http://joschu.net/blog/kl-approx.html)."""
    return logp - reference


def kl_positive(logp: Tensor, reference: Tensor) -> Tensor:
    """r - 1 - log r with r = reference / policy: unbiased, never negative, less noisy near 0 (k3, same source)."""
    ratio = reference - logp
    return torch.expm1(ratio) - ratio
