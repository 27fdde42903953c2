"""What models say of the replies and the tokens of many trees, without gradients: scores, log-probs, values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from align.data.tree import Batch, Layout, Tree, collate
from align.train.batching import microbatches

T = TypeVar("T")


def per_reply_of(
    measure: Callable[[Batch], Tensor],
    trees: Sequence[Tree],
    *,
    layout: Layout,
    pad: int,
    max_tokens: int,
    device: torch.device,
    dtype: str = "float32",
    progress: Callable[[int], None] = lambda done: None,
) -> list[np.ndarray]:
    """For each tree, in the order given, what `measure` says of its replies: float64 arrays of (replies,).

    measure: a batch of trees to (K,) numbers, one a reply. dtype: of the computation, as training has it: weights that
    train are float32 even where the policy is not. progress: is told how many trees are done.
    """

    def split(part: list[Tree], batch: Batch) -> list[np.ndarray]:
        with _autocast(device, dtype):
            values = measure(batch).double().cpu().numpy()
        return np.split(values, np.cumsum([len(tree.replies) for tree in part])[:-1])

    return _of_each(split, trees, layout, pad, max_tokens, device, progress)


def with_token_numbers(
    measure: Callable[[Batch], dict[str, Tensor]],
    trees: Sequence[Tree],
    *,
    layout: Layout,
    pad: int,
    max_tokens: int,
    device: torch.device,
    dtype: str = "float32",
    progress: Callable[[int], None] = lambda done: None,
) -> list[Tree]:
    """The same trees with what `measure` says of their replies' tokens among the replies' numbers.

    measure: a batch of trees, all of whose reply tokens are scored, to named (N,) numbers, one a token. dtype and
    progress: likewise.
    """

    def split(part: list[Tree], batch: Batch) -> list[Tree]:
        with _autocast(device, dtype):
            told = {name: values.float().cpu().numpy() for name, values in measure(batch).items()}
        ends = np.cumsum([len(reply.ids) for tree in part for reply in tree.replies])[:-1]
        columns = {name: iter(np.split(values, ends)) for name, values in told.items()}

        def numbered(tree: Tree) -> Tree:
            replies = [
                replace(reply, numbers=reply.numbers | {name: next(column) for name, column in columns.items()})
                for reply in tree.replies
            ]
            return replace(tree, replies=tuple(replies))

        return [numbered(tree) for tree in part]

    return _of_each(split, trees, layout, pad, max_tokens, device, progress)


@torch.no_grad()
def _of_each(
    split: Callable[[list[Tree], Batch], list[T]],
    trees: Sequence[Tree],
    layout: Layout,
    pad: int,
    max_tokens: int,
    device: torch.device,
    progress: Callable[[int], None],
) -> list[T]:
    """For each tree, in the order given, what `split` makes of it in a micro-batch."""
    found: dict[int, T] = {}
    place = {id(tree): i for i, tree in enumerate(trees)}
    for part in microbatches(trees, max_tokens, layout):
        for tree, made in zip(part, split(part, collate(part, layout, pad, max_tokens).to(device)), strict=True):
            found[place[id(tree)]] = made
        progress(len(found))
    return [found[i] for i in range(len(trees))]


def _autocast(device: torch.device, dtype: str) -> torch.autocast:
    return torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32")
