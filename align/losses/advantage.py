"""Advantages: how much better a token, or a reply, was than expected.

Token functions take (K, T) tensors, one row a reply, and a (K, T) bool mask that is True from the first token of a
reply to its last. Whatever stands where the mask is False, NaN included, changes nothing, and is 0 in the result. Group
functions take (P, G) scores, the G replies to each of P prompts.
"""

from __future__ import annotations

import torch
from torch import Tensor


def earned(scores: Tensor, price: Tensor, mask: Tensor) -> Tensor:
    """The rewards of tokens: a reply's score (K,) at its last token, less the price of each token: (K, T)."""
    rewards = -price.where(mask, 0)
    rewards[torch.arange(len(scores)), mask.sum(1) - 1] += scores
    return rewards


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, decay: float) -> Tensor:
    """Generalized advantage estimates, eq. 16 of arXiv:1506.02438, `decay` its lambda: (K, T).

    values[k, t] is what was expected before token t. After a reply's last token nothing follows: its value is 0.
    Advantages plus values are the returns that a critic learns.
    """
    rewards, values = rewards.where(mask, 0), values.where(mask, 0)
    following = torch.cat([values[:, 1:], values.new_zeros(len(values), 1)], dim=1)
    return _discounted(rewards + gamma * following - values, gamma * decay).where(mask, 0)


def returns_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """The discounted sum of each token's reward and all later ones of its reply: (K, T)."""
    return _discounted(rewards.where(mask, 0), gamma).where(mask, 0)


def _discounted(steps: Tensor, factor: float) -> Tensor:
    sums, tail = torch.zeros_like(steps), steps.new_zeros(len(steps))
    for t in range(steps.shape[1] - 1, -1, -1):
        tail = steps[:, t] + factor * tail
        sums[:, t] = tail
    return sums


def rloo(scores: Tensor) -> Tensor:
    """Each reply's score minus the mean of the others' to the same prompt: leave-one-out, arXiv:2402.14740, (P, G)."""
    others = (scores.sum(1, keepdim=True) - scores) / (scores.shape[1] - 1)
    return scores - others


def grpo(scores: Tensor) -> Tensor:
    """Scores minus their group's mean, over its standard deviation: section 4.1.2 of arXiv:2402.03300, (P, G).

    A group of equal scores has advantage 0.
    """
    centred = scores - scores.mean(1, keepdim=True)
    return centred / (scores.std(1, keepdim=True) + 1e-4)


def whitened(values: Tensor, mask: Tensor, centre: bool = True) -> Tensor:
    """Values scaled to variance 1 over the mask and, if `centre`, to mean 0: (K, T)."""
    kept = values[mask]
    mean = kept.mean()
    scale = (kept.var(correction=0) + 1e-8).rsqrt()
    return ((values - mean) * scale + (0 if centre else mean)).where(mask, 0)
