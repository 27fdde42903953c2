"""Batches, held against layouts written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from align.data.tree import Reply, Tree, collate, place


def tree(name: str, prompt: list[int], *replies: list[int], **numbers: float) -> Tree:
    return Tree(name, np.array(prompt, np.int32), tuple(Reply(np.array(r, np.int32)) for r in replies), numbers)


PAIR = tree("pair", [10, 11], [20, 21, 22], [30], margin=0.5)
SHORT = tree("short", [12], [40], [50], margin=1.5)


def test_a_tree_is_its_prompt_and_then_each_reply() -> None:
    batch = collate([PAIR])
    assert batch.ids.tolist() == [[10, 11, 20, 21, 22, 30]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 2]]
    assert batch.until.tolist() == [[6, 6, 5, 5, 5, 6]]
    assert batch.source.tolist() == [1, 2, 3, 1]  # the prompt's last token predicts the first of each reply
    assert batch.target.tolist() == [20, 21, 22, 30]
    assert batch.owner.tolist() == [0, 0, 0, 1]
    assert batch.last.tolist() == [4, 5]
    assert (batch.examples, batch.tokens, batch.causal) == (1, 6, False)


def test_plain_rows_repeat_the_prompt_and_fill_the_same_fields() -> None:
    batch = collate([PAIR], "plain", pad=9)
    assert batch.ids.tolist() == [[10, 11, 20, 21, 22], [10, 11, 30, 9, 9]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert batch.source.tolist() == [1, 2, 3, 6]
    assert batch.target.tolist() == [20, 21, 22, 30]
    assert batch.last.tolist() == [4, 7]
    assert (batch.tokens, batch.causal) == (8, True)


def test_short_trees_share_a_row_and_fields_keep_the_order_of_the_trees() -> None:
    batch = collate([SHORT, PAIR, SHORT], pad=9)
    assert batch.ids.tolist() == [[10, 11, 20, 21, 22, 30], [12, 40, 50, 12, 40, 50]]
    assert batch.until[1].tolist() == [3, 2, 3, 6, 5, 6]
    assert batch.positions[1].tolist() == [0, 1, 1, 0, 1, 1]
    assert batch.target.tolist() == [40, 50, 20, 21, 22, 30, 40, 50]
    assert batch.source.tolist() == [6, 6, 1, 2, 3, 1, 9, 9]
    assert batch.tree.tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.numbers["margin"].tolist() == [1.5, 0.5, 1.5]


def test_a_text_without_a_prompt_scores_all_but_its_first_token() -> None:
    batch = collate([tree("text", [], [7, 8, 9])])
    assert (batch.source.tolist(), batch.target.tolist()) == ([0, 1], [8, 9])


def test_numbers_of_tokens_come_in_the_order_of_the_targets() -> None:
    def reply(scored: list[bool] | None, *values: float) -> Reply:
        mask = None if scored is None else np.array(scored)
        return Reply(np.array([5] * len(values), np.int32), mask, {"logp": np.array(values, np.float32)})

    long = Tree("a", np.array([1, 2], np.int32), (reply(None, 0.1, 0.2), reply([False, True, True], 0.3, 0.4, 0.5)))
    short = Tree("b", np.array([], np.int32), (reply(None, 0.6, 0.7),))
    for layout in ("tree", "plain"):
        told = collate([short, long], layout).token_numbers["logp"]  # the first token of a text is not scored
        assert told.tolist() == pytest.approx([0.7, 0.1, 0.2, 0.4, 0.5])


def test_only_scored_tokens_are_scored_even_where_they_equal_the_pad_id() -> None:
    reply = Reply(np.array([9, 5, 9], np.int32), np.array([True, False, True]))
    batch = collate([Tree("masked", np.array([9], np.int32), (reply,))], pad=9)
    assert (batch.source.tolist(), batch.target.tolist()) == ([0, 2], [9, 9])


def test_an_empty_reply_is_read_at_the_end_of_its_prompt() -> None:
    batch = collate([tree("empty", [1, 2], [], [3])])
    assert batch.last.tolist() == [1, 2]
    assert batch.owner.tolist() == [1]


def test_padding_sees_no_tree() -> None:
    batch = collate([PAIR, tree("two", [1], [2, 3, 4], margin=0.0)])
    assert batch.until[1].tolist() == [4, 4, 4, 4, 6, 6]


@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_no_two_trees_lie_on_the_same_tokens(layout: str) -> None:
    generator = np.random.default_rng(0)
    trees = [tree(str(i), [1] * a, [2] * b, [3] * c) for i, (a, b, c) in enumerate(generator.integers(1, 30, (40, 3)))]
    batch = collate(trees, layout, pad=0)  # type: ignore[arg-type]
    assert batch.tokens == (batch.ids != 0).sum()
    assert len(torch.unique(batch.last)) == 80


def test_trees_beyond_the_budget_get_no_place() -> None:
    assert place([PAIR, PAIR, SHORT], "tree", tokens=6) == [[(0, 0)], [], []]
    assert place([PAIR, SHORT, SHORT], "tree", tokens=12) == [[(0, 0)], [(1, 0)], [(1, 3)]]


def test_rows_are_as_wide_as_the_budget_allows_for_their_number() -> None:
    """Trees of 6 and 3 tokens share one row of 11, but none of two rows of 6; a row ends where nothing more fits."""
    assert place([PAIR, SHORT, SHORT], "tree", tokens=11) == [[(0, 0)], [(0, 6)], []]
    assert collate([PAIR, SHORT], tokens=11).ids.shape == (1, 9)
    assert collate([PAIR, SHORT, SHORT], tokens=12).ids.shape == (2, 6)
