"""Keys and values that outlive their batch: a conversation that goes on is not read again from its beginning.

Whatever the template makes of a turn, what counts is the ids: a prompt goes on from the longest beginning that it has
in common with a row that is kept.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

LEAST = 32
"""Tokens that all prompts of a batch have in common, from which on they are worth a forward pass of their own."""


@dataclass(frozen=True, slots=True)
class _Row:
    """The ids of one row, and where its keys and values are: in `row` of each layer's (R, H, T, D), from `start` on."""

    ids: list[int]
    layers: list[tuple[Tensor, Tensor]]
    row: int
    start: int


class Prefixes:
    """What is cached of the rows of a batch, for prompts that begin like them."""

    def __init__(self) -> None:
        self._rows: list[_Row] = []

    def add(self, ids: Sequence[list[int]], cache: DynamicCache, rows: Tensor, starts: Sequence[int]) -> None:
        """Copies rows of a cache. ids: what is cached of each; starts: the column of its first token."""
        whole: list[Any] = cache.layers
        layers = [(layer.keys[rows], layer.values[rows]) for layer in whole]
        self._rows += [_Row(of, layers, i, start) for i, (of, start) in enumerate(zip(ids, starts, strict=True))]
        self._rows.sort(key=lambda row: row.ids)

    def clear(self) -> None:
        self._rows = []

    def common(self, prompts: Sequence[list[int]]) -> list[int]:
        """What all prompts begin with and no row does, where it is long enough to be computed once for all of them."""
        count = min(_alike(min(prompts), max(prompts)), min(map(len, prompts)) - 1)
        known = min(self._longest(ids)[1] for ids in prompts)
        return prompts[0][:count] if len(prompts) > 1 and count - known >= LEAST else []

    def rest(self, ids: list[int]) -> int:
        """How many tokens of a prompt are to be computed: its last one at least."""
        return len(ids) - min(self._longest(ids)[1], len(ids) - 1)

    def fill(self, cache: DynamicCache, prompts: Sequence[list[int]]) -> int:
        """Puts the beginnings of left-padded prompts into an empty cache; returns how many columns are there now.

        All prompts have the same number of tokens left to compute, the most that one of them needs: padding would cost
        as much, and so columns are where they would be if nothing had been kept.
        """
        rest = max(map(self.rest, prompts))
        columns = max(map(len, prompts)) - rest
        if columns:
            sources = [(self._longest(ids)[0], len(ids) - rest) for ids in prompts]
            for layer in range(len(cache.layers)):
                cache.update(*(_gathered(sources, columns, layer, part) for part in (0, 1)), layer_idx=layer)
        return columns

    def _longest(self, ids: list[int]) -> tuple[_Row | None, int]:
        """The row that has the longest beginning in common with the ids, and how long it is."""
        place = bisect(self._rows, ids, key=lambda row: row.ids)
        beside = self._rows[max(place - 1, 0) : place + 1]  # in lexicographic order the nearest are most alike
        return max(((row, _alike(row.ids, ids)) for row in beside), key=lambda found: found[1], default=(None, 0))


def keeps_all(model: Any) -> bool:
    """Whether every layer caches keys and values of all tokens: no windows, no recurrent states."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def _gathered(sources: Sequence[tuple[_Row | None, int]], columns: int, layer: int, part: int) -> Tensor:
    """(P, H, columns, D) keys or values: of each source so many from the row's beginning on, aligned to the right."""
    states = next(row.layers[layer][part] for row, count in sources if row and count > 0)
    made = states.new_zeros(len(sources), states.shape[1], columns, states.shape[3])
    for i, (row, count) in enumerate(sources):
        if row and count > 0:
            made[i, :, columns - count :] = row.layers[layer][part][row.row, :, row.start : row.start + count]
    return made


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)
