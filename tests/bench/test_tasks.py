"""Every task of `align bench` on a model of one narrow layer: what it counts, not how long it takes."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from align.bench import workload
from align.bench.arithmetic import useful
from align.bench.constitutional import ANSWER, PRINCIPLES, REQUEST
from align.bench.tasks import Bench, Order
from align.bench.trl import settings
from align.cli.bench import TASKS
from align.machine import Machine

NARROW = {
    "architecture": "llama", "vocab_size": 1024, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 512,
}  # fmt: skip
ROWS = 16


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def made(task: str) -> Bench:
        monkeypatch.setitem(workload.SHAPES, "narrow", NARROW)
        lengths = workload.drawn("short", ROWS, 0)
        return Bench(Order(task, "narrow", tuple(lengths), Machine(device="cpu", threads=1)), tmp_path)

    return made


@pytest.mark.parametrize("task", TASKS)
def test_a_task_does_all_rows_and_times_its_parts_within_the_whole(bench, task: str) -> None:
    made = bench(task)
    trees = made.trees()
    rows = made.work(trees)
    assert len(rows) == len(trees) == ROWS
    assert all(row.tokens >= len(tree.prompt) for row, tree in zip(rows, trees, strict=True))
    assert 0 < sum(seconds for seconds, _ in made.phases.values()) <= made.clock.seconds or not made.phases
    assert set(made.phases) == {
        "ppo": {"ppo.rollout", "ppo.scoring", "ppo.update"},
        "critique_revise": {"critique_revise.generation"},
        "ai_feedback": {"ai_feedback.choices"},
    }.get(task, set())


def test_trl_is_tried_in_whole_steps_and_in_their_parts() -> None:
    assert [setting.micro for setting in settings("sft", 16)] == [1, 2, 4, 16]
    assert [setting.micro for setting in settings("sft", 24)] == [1, 2, 4, 24]
    assert [(s.micro, s.precompute) for s in settings("dpo", 2)] == [(1, True), (2, True), (1, False), (2, False)]


def test_a_transcript_is_read_once(bench) -> None:
    made = bench("critique_revise")
    trees = made.trees()
    rows = made.work(trees)
    read = [row.prompt - len(tree.prompt) for row, tree in zip(rows, trees, strict=True)]
    assert 2 * REQUEST <= median(read) <= 2 * REQUEST + 12  # few replies are empty and not criticised; 3 templates
    assert ANSWER < median(row.scored for row in rows) <= 3 * ANSWER
    assert made.phases["critique_revise.generation"][1] == useful("critique_revise", made.shape, rows)


def test_what_questions_about_a_pair_share_is_read_once(bench) -> None:
    made = bench("ai_feedback")
    trees = made.trees()
    for row, tree in zip(made.work(trees), trees, strict=True):
        compared = len(tree.prompt) + sum(len(reply.ids) for reply in tree.replies)
        own = 2 * PRINCIPLES * REQUEST
        assert own + compared < row.tokens < own + 2 * compared + 2 * PRINCIPLES * 20
