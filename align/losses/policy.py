"""Losses of proximal policy optimization (arXiv:1707.06347) on tokens that an older policy sampled.

All arguments are (N,), one number a sampled token; results are (N,) losses, not yet averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor


def clipped(logp: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """The clipped surrogate, eq. 7: a token whose ratio has left 1 - clip..1 + clip the way its advantage asks for
    counts no further.

    logp, old: log-probs in nats under the policy that trains and under the one that sampled.
    """
    ratio = (logp - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def outside(logp: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Which tokens `clipped` counts no further: (N,) bool."""
    ratio = (logp - old).exp()
    return torch.where(advantages > 0, ratio > 1 + clip, ratio < 1 - clip)


def squared(values: Tensor, returns: Tensor) -> Tensor:
    """Half the squared error of a critic, eq. 9."""
    return (values - returns).square() / 2


def clipped_squared(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """The same, or that of the value held within `clip` of the old one, whichever is larger.

    From OpenAI's baselines; detail 13 of "The N+ implementation details of RLHF with PPO" (arXiv:2403.17031).
    """
    held = old + (values - old).clamp(-clip, clip)
    return torch.maximum(squared(values, returns), squared(held, returns))
