"""From tokens to replies. Sums and counts only: who divides, and by what, is the objective's to say."""

from __future__ import annotations

import torch
from torch import Tensor


def per_reply(values: Tensor, owner: Tensor, replies: int) -> Tensor:
    """Sums of token values (N,) over each reply: (replies,). `owner` (N,) names the reply of each token."""
    return values.new_zeros(replies).index_add(0, owner, values)


def lengths(owner: Tensor, replies: int) -> Tensor:
    """Scored tokens of each reply: (replies,) int64."""
    # Not bincount, which on a GPU reads the largest value back first.
    return owner.new_zeros(replies).index_add(0, owner, torch.ones_like(owner))


def per_token(sums: Tensor, counts: Tensor) -> Tensor:
    """Means over each reply's tokens (replies,); a reply without scored tokens has mean 0."""
    return sums / counts.clamp(min=1)
