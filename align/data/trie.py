"""Sequences that begin alike, laid out so that what they share is computed once.

A row is a tree of tokens in the order of a depth-first walk. A token sees its ancestors only, which `until`, one number
a token (see `align.data.tree`), says for a tree of any depth: a token is seen from where it stands to the end of the
branch that it begins. Positions are depths, so each sequence is computed as if it stood alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from align.data.tree import Batch

WIDTH = 4096
"""Tokens of a row at most, for dense masks grow with its square; a longer sequence has a row of its own."""


@dataclass
class Row:
    """Sequences in a row, added in lexicographic order."""

    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    until: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    """Where the tokens of the last sequence stand."""
    members: list[int] = field(default_factory=list)
    """Which sequences are here."""
    sources: list[list[int]] = field(default_factory=list)
    """Of each, where its scored tokens are predicted."""

    def shared(self, ids: Sequence[int]) -> int:
        """How many tokens a sequence has in common with the last one."""
        count = 0
        for at, token in zip(self.path, ids, strict=False):
            if self.ids[at] != token:
                break
            count += 1
        return count

    def add(self, member: int, ids: Sequence[int], scored: int) -> None:
        """Adds a sequence whose last `scored` tokens count. Nothing follows the last one, so it is not computed."""
        begin = self.shared(ids)
        for at in self.path[begin:]:
            self.until[at] = len(self.ids)
        self.path = self.path[:begin]
        for depth, token in enumerate(ids[begin:-1], begin):
            self.path.append(len(self.ids))
            self.ids.append(token)
            self.depths.append(depth)
            self.until.append(-1)
        self.members.append(member)
        self.sources.append(self.path[len(ids) - 1 - scored : len(ids) - 1])

    def close(self) -> None:
        for at in self.path:
            self.until[at] = len(self.ids)


def batches(
    sequences: Sequence[Sequence[int]], scored: Sequence[int], max_tokens: int
) -> Iterator[tuple[list[int], Batch]]:
    """(which sequences, their batch) until all have come; a batch's owners count the sequences in this order.

    scored: how many tokens at the end of each sequence count, at least one and not all. max_tokens: of one batch,
    padding included.
    """
    rows: list[Row] = []
    for row in sorted(_rows(sequences, scored, min(max_tokens, WIDTH)), key=lambda row: -len(row.ids)):
        if rows and len(rows[0].ids) * (len(rows) + 1) > max_tokens:
            yield _batch(rows, sequences)
            rows = []
        rows.append(row)
    if rows:
        yield _batch(rows, sequences)


def _rows(sequences: Sequence[Sequence[int]], scored: Sequence[int], width: int) -> Iterator[Row]:
    row = Row()
    for member in sorted(range(len(sequences)), key=lambda i: tuple(sequences[i])):
        ids = sequences[member]
        if row.members and len(row.ids) + len(ids) - 1 - row.shared(ids) > width:
            row.close()
            yield row
            row = Row()
        row.add(member, ids, scored[member])
    if row.members:
        row.close()
        yield row


def _batch(rows: list[Row], sequences: Sequence[Sequence[int]]) -> tuple[list[int], Batch]:
    width = max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), width), np.int64)
    positions, until = np.tile(np.arange(width), (len(rows), 1)), np.full((len(rows), width), width)
    members, source, target, counts = [], [], [], []
    for i, row in enumerate(rows):
        size = len(row.ids)
        ids[i, :size], positions[i, :size], until[i, :size] = row.ids, row.depths, row.until
        members += row.members
        for member, places in zip(row.members, row.sources, strict=True):
            source += [i * width + at for at in places]
            target += list(sequences[member][len(sequences[member]) - len(places) :])
            counts.append(len(places))
    ends = torch.tensor(np.cumsum(counts) - 1)
    return members, Batch(
        ids=torch.from_numpy(ids), positions=torch.from_numpy(positions), until=torch.from_numpy(until), causal=False,
        source=torch.tensor(source), target=torch.tensor(target),
        owner=torch.repeat_interleave(torch.arange(len(members)), torch.tensor(counts)),
        last=torch.tensor(source)[ends], tree=torch.arange(len(members)), numbers={}, token_numbers={},
        examples=len(members), tokens=sum(len(row.ids) for row in rows),
    )  # fmt: skip
