"""Micro-batches: how an optimizer step of exactly `batch_size` examples is cut to fit the memory there is.

The cut changes no result beyond rounding, because objectives return sums and the learner divides once by the count of
the whole step. So `max_tokens` is a setting of the machine and no part of a recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from align.data.tree import Layout, Tree, place
from align.machine import Machine

WINDOW = 256
"""How many of the longest trees left are considered for one part; looking at all of them would take quadratic time."""


def microbatches(trees: Sequence[Tree], max_tokens: int, layout: Layout = "tree") -> list[list[Tree]]:
    """Trees sorted by length and cut so that each part fills at most `max_tokens`, padding included.

    The longest come first, so that a step that does not fit in memory fails at once. A tree longer than `max_tokens`
    is a part of its own. The same trees give the same parts in whatever order they come.
    """
    ordered = sorted(trees, key=lambda t: (-t.length(layout), t.id))
    parts, left, seen = [], ordered[:WINDOW], WINDOW
    while left:
        places = place(left, layout, max_tokens)
        parts.append([tree for tree, at in zip(left, places, strict=True) if at])
        left = [tree for tree, at in zip(left, places, strict=True) if not at]
        more = ordered[seen : seen + WINDOW - len(left)]
        left, seen = left + more, seen + len(more)
    return parts


def token_budget(machine: Machine, device: torch.device) -> int:
    """Tokens of one micro-batch on this device, as set or as usual."""
    return machine.max_tokens or (16384 if device.type == "cuda" else 1024)


class Share(NamedTuple):
    """One micro-batch of one rank."""

    trees: list[Tree]
    weight: float
    """1, or 0 for a repeated part whose only use is to join in the others' collective operations."""


def deal(parts: Sequence[list[Tree]], rank: int = 0, ranks: int = 1) -> list[Share]:
    """This rank's parts, dealt in turn from the longest; every rank gets the same number."""
    mine = [Share(part, 1.0) for part in parts[rank::ranks]]
    missing = -(-len(parts) // ranks) - len(mine)
    shortest = parts[-1][-1:]
    return mine + [Share(shortest, 0.0)] * missing
