"""Operations counted by hand, and held against what a model does in fact."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from align.bench.arithmetic import Lengths, Questions, Shape, useful, usual

TINY = Shape(linear=100, layers=2, attention=8, hidden=4, vocabulary=50)


def test_attention_sees_what_comes_before_and_its_own_reply():
    # Prompt of 2: 1 + 2. Replies of 3 and 1 see the prompt and themselves: 2*3 + (1+2+3), 2*1 + 1.
    assert Lengths(2, (3, 1)).pairs == 3 + 12 + 3
    assert Lengths(0, (4,)).pairs == 10


def test_what_questions_begin_with_alike_is_read_once():
    # A tree: 1 2 3, from there 4 and 5 6; and 7. Its seven tokens see 1, 2, 3, 4, 4, 5 and 1 of those up to them.
    assert Questions.of([[1, 2, 3, 4], [7], [1, 2, 3, 5, 6], [1, 2, 3, 4]]) == Questions(tokens=7, pairs=20)
    assert Questions.of([[1, 2], [1, 2, 3]]) == Questions(tokens=3, pairs=6)
    assert TINY.forward(Questions(7, 20)) == 2 * 100 * 7 + 2 * 2 * 2 * 8 * 20


def test_a_conversation_costs_the_same_whoever_says_what():
    assert Lengths(5, (3,)).pairs == Questions.of([range(8)]).pairs == 36


def test_operations_of_a_tree_by_hand():
    row = Lengths(2, (3, 1))
    linear, attention, projection = 2 * 100 * 6, 2 * 2 * 2 * 8 * 18, 2 * 4 * 50 * 4
    assert TINY.forward(row) == linear + attention + projection
    assert TINY.forward(row, project=False) == linear + attention


@pytest.mark.parametrize(
    ("task", "passes", "reads"),
    [
        ("sft", 3, 0), ("pretrain", 3, 0), ("reward_model", 0, 3), ("dpo", 4, 0), ("sample", 1, 0), ("compare", 0, 1),
        ("critique_revise", 1, 0), ("ai_feedback", 0, 1),
        ("ppo.rollout", 1, 0), ("ppo.scoring", 1, 2), ("ppo.update", 12, 12),
    ],
)  # fmt: skip
def test_a_task_needs_so_many_passes(task, passes, reads):
    row = Lengths(2, (3, 1))
    with_projection, without = TINY.forward(row), TINY.forward(row, project=False)
    assert useful(task, TINY, [row, row], epochs=4) == 2 * (passes * with_projection + reads * without)


def test_a_shared_critic_costs_nothing_beside_the_policy():
    row = Lengths(2, (3, 1))
    assert useful("ppo.update", TINY, [row], critic=False) == 3 * TINY.forward(row)


def test_the_usual_formula_by_hand():
    assert usual(1000, TINY, tokens=7, length=10) == 7 * (6 * 1000 + 12 * 2 * 8 * 10)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_torch_counts_the_same_products(tiny, family):
    model = tiny(family)
    row = Lengths(0, (16,))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.arange(3, 19)[None], use_cache=False)
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for name, count in counts.items() if "mm" in str(name))
    shape = Shape.of(model)
    assert products == shape.forward(row) - 2 * 2 * shape.layers * shape.attention * row.pairs
