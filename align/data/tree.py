"""Trees: a prompt and its replies, laid out once, and the batches of tensors made of them.

A tree of the tokens P with the replies C and R is one row `P C R`. Positions of R restart after P, and R sees P and
itself, never C, so the prompt is computed once for all replies. The plain layout repeats the prompt, one row a reply,
for models that such a mask cannot serve. Both layouts fill the same fields: nothing downstream knows which it was.

Visibility is one number a token, `until`: token k is seen by the tokens q of its row with k <= q < until[k]. That is
the end of the tree for a prompt token and the end of the reply for a reply token; padding sees the padding before it,
because a row of a softmax that sees nothing is NaN. No mask is ever made by comparing ids with the pad id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

Layout = Literal["tree", "plain"]


@dataclass(frozen=True, eq=False, slots=True)
class Reply:
    """The tokens of one reply, its stop id included, and which of them count."""

    ids: np.ndarray
    """(n,) int32."""
    scored: np.ndarray | None = None
    """(n,) bool: tokens that carry loss. None means all."""
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    """Each (n,) float32: what belongs to the tokens, such as their log-probs when they were sampled."""


@dataclass(frozen=True, eq=False, slots=True)
class Tree:
    """A prompt, its replies, and the numbers that belong to it (margin, weight, reference log-probs).

    Raw text is a tree with an empty prompt: its first token has nothing before it, so it is never scored.
    """

    id: str
    prompt: np.ndarray
    """(n,) int32."""
    replies: tuple[Reply, ...]
    numbers: dict[str, float] = field(default_factory=dict)

    def length(self, layout: Layout = "tree") -> int:
        """Tokens of the tree's row, or of its longest row in the plain layout."""
        sizes = [len(reply.ids) for reply in self.replies]
        return len(self.prompt) + (sum(sizes) if layout == "tree" else max(sizes))


@dataclass
class Batch:
    """Tensors of one micro-batch: R rows of T tokens, P trees with K replies in all, N scored tokens."""

    ids: Tensor
    """(R, T)."""
    positions: Tensor
    """(R, T) position ids."""
    until: Tensor
    """(R, T) end of each token's visibility in its row; see the module."""
    causal: bool
    """Whether every row is one chain, so that a plain causal mask does what `until` says for all but padding."""
    source: Tensor
    """(N,) flat index into R * T of the hidden state that predicts a scored token."""
    target: Tensor
    """(N,) the scored token's id."""
    owner: Tensor
    """(N,) the reply, 0..K-1, of the scored token; ascending."""
    last: Tensor
    """(K,) flat index of each reply's last token, or of the prompt's where the reply is empty."""
    tree: Tensor
    """(K,) the tree, 0..P-1, of each reply."""
    numbers: dict[str, Tensor]
    """Each (P,) float32: the trees' numbers."""
    token_numbers: dict[str, Tensor]
    """Each (N,) float32: the replies' numbers of scored tokens, in the order of `target`."""
    examples: int
    """P."""
    tokens: int
    """Tokens computed, without padding."""

    def to(self, device: torch.device | str) -> Self:
        """The same batch with every tensor on a device."""
        moved = {f.name: _to(getattr(self, f.name), device) for f in fields(self)}
        return type(self)(**moved)


def _to(value, device):
    if isinstance(value, Tensor):
        if torch.device(device).type == "cuda" and value.device.type == "cpu":
            value = value.pin_memory()  # or the copy waits for what the GPU is doing
        return value.to(device, non_blocking=True)
    return {k: _to(v, device) for k, v in value.items()} if isinstance(value, dict) else value


def _tokens(tree: Tree, layout: Layout) -> int:
    prompts = 1 if layout == "tree" else len(tree.replies)
    return prompts * len(tree.prompt) + sum(len(reply.ids) for reply in tree.replies)


def place(trees: Sequence[Tree], layout: Layout, tokens: int | None = None) -> list[list[tuple[int, int]]]:
    """Where trees, given from the longest to the shortest, lie: for each the (row, start) of each of its rows.

    Rows are as wide as the longest tree. In the tree layout a tree goes into the first row with space for it, several
    to a row, and rows are as wide as `tokens` allow for their number; in the plain layout each reply has a row of its
    own. Trees that would make the batch larger than `tokens` get no place: an empty list. The first tree always has
    one.
    """
    width = trees[0].length(layout)
    if tokens is not None and layout == "tree":
        width = max(width, tokens // max(1, tokens // width))
    free: list[int] = []
    places = []
    for tree in trees:
        size = tree.length(layout)
        need = 1 if layout == "tree" else len(tree.replies)
        row = next((i for i, space in enumerate(free) if space >= size), None) if layout == "tree" else None
        if row is None:
            if free and tokens is not None and (len(free) + need) * width > tokens:
                places.append([])
                continue
            row = len(free)
            free += [width] * need
        places.append([(row + i, width - free[row]) for i in range(need)])
        free[row] -= size
    return places


def collate(trees: Sequence[Tree], layout: Layout = "tree", pad: int = 0, tokens: int | None = None) -> Batch:
    """One batch of trees, its fields in their order, its rows laid out by `place` and padded on the right.

    tokens: what the trees were chosen to fit into, if they were. Every tree must have the same names in `numbers`, and
    so must every reply.
    """
    longest = sorted(range(len(trees)), key=lambda i: -trees[i].length(layout))
    places = dict(zip(longest, place([trees[i] for i in longest], layout, tokens), strict=True))
    width = max(start + trees[i].length(layout) for i, spots in places.items() for _, start in spots)
    rows = 1 + max(row for spots in places.values() for row, _ in spots)
    ids = np.full((rows, width), pad, np.int64)
    positions = np.zeros((rows, width), np.int64)
    until = np.full((rows, width), width)
    chains = np.zeros(rows, np.int64)
    source, target, last = [], [], []
    names = list(trees[0].replies[0].numbers)
    told: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for i, tree in enumerate(trees):
        groups = [tree.replies] if layout == "tree" else [(reply,) for reply in tree.replies]
        for (row, start), replies in zip(places[i], groups, strict=True):
            fork = end = start + len(tree.prompt)
            ids[row, start:fork], positions[row, start:fork] = tree.prompt, np.arange(fork - start)
            for reply in replies:
                begin, end = end, end + len(reply.ids)
                ids[row, begin:end], until[row, begin:end] = reply.ids, end
                positions[row, begin:end] = fork - start + np.arange(end - begin)
                at = np.arange(begin, end) if reply.scored is None else begin + np.flatnonzero(reply.scored)
                at = at if fork > start else at[at > begin]
                source.append(row * width + np.where(at == begin, fork, at) - 1)
                target.append(ids[row, at])
                for name in names:
                    told[name].append(reply.numbers[name][at - begin])
                last.append(row * width + (end if end > begin else fork) - 1)
            until[row, start:fork] = end
            chains[row] += len(replies)
    causal = bool((chains == 1).all())
    if causal:  # in padding too, or transformers reads positions that start again as a second, packed text
        positions[:] = np.arange(width)
    counts = torch.tensor([len(t) for t in target])
    return Batch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        until=torch.from_numpy(until),
        causal=causal,
        source=torch.from_numpy(np.concatenate(source)),
        target=torch.from_numpy(np.concatenate(target)),
        owner=torch.repeat_interleave(torch.arange(len(counts)), counts),
        last=torch.tensor(last),
        tree=torch.repeat_interleave(torch.arange(len(trees)), torch.tensor([len(t.replies) for t in trees])),
        numbers={
            name: torch.tensor([t.numbers[name] for t in trees], dtype=torch.float32) for name in trees[0].numbers
        },
        token_numbers={name: torch.from_numpy(np.concatenate(told[name], dtype=np.float32)) for name in names},
        examples=len(trees),
        tokens=sum(_tokens(t, layout) for t in trees),
    )
