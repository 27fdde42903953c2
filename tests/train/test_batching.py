"""How a step is cut: everything once, within the budget, in whatever order it came, over however many ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from align.data.tree import Layout, Reply, Tree, collate, place
from align.train import batching
from align.train.batching import deal, microbatches


def some(n: int, seed: int = 0) -> list[Tree]:
    sizes = np.random.default_rng(seed).integers(1, 40, (n, 3))
    ones = lambda k: np.ones(k, np.int32)  # noqa: E731
    return [Tree(str(i), ones(p), (Reply(ones(c)), Reply(ones(r)))) for i, (p, c, r) in enumerate(sizes)]


@pytest.mark.parametrize("layout", ["tree", "plain"])
@pytest.mark.parametrize("budget", [130, 500, 10**6])
def test_parts_hold_every_tree_once_and_fit_the_budget(layout: Layout, budget: int) -> None:
    trees = some(50)
    parts = microbatches(trees, budget, layout)
    assert sorted(t.id for part in parts for t in part) == sorted(t.id for t in trees)
    assert all(collate(part, layout, tokens=budget).ids.numel() <= budget or len(part) == 1 for part in parts)
    assert max(trees, key=lambda t: t.length(layout)) is parts[0][0]


def test_the_cut_does_not_depend_on_the_order() -> None:
    trees = some(50)
    names = [[t.id for t in part] for part in microbatches(trees, 300)]
    assert names == [[t.id for t in part] for part in microbatches(trees[::-1], 300)]


def test_cutting_a_whole_dataset_takes_no_quadratic_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probs of a dataset are cut in one go, so no part may look at all the trees that are left."""
    looked: list[int] = []

    def counted(trees: list[Tree], *arguments: object) -> list[list[tuple[int, int]]]:
        looked.append(len(trees))
        return place(trees, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(batching, "place", counted)
    parts = microbatches(some(3000), 500)
    assert len({t.id for part in parts for t in part}) == 3000
    assert max(looked) <= batching.WINDOW


def test_at_most_one_row_is_less_than_half_full() -> None:
    """What first-fit promises: of two such rows, the later would have gone into the earlier."""
    batch = collate(some(64))
    used = (batch.ids != 0).sum(1)
    assert batch.tokens == used.sum()
    assert (used * 2 < batch.ids.shape[1]).sum() <= 1


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_ranks_get_every_part_once_and_equally_many(ranks: int) -> None:
    parts = microbatches(some(10), 200)
    shares = [deal(parts, rank, ranks) for rank in range(ranks)]
    assert {len(share) for share in shares} == {math.ceil(len(parts) / ranks)}
    real = [tree.id for share in shares for part, weight in share if weight for tree in part]
    assert sorted(real) == sorted(tree.id for part in parts for tree in part)
    assert all(len(part) == 1 for share in shares for part, weight in share if not weight)
