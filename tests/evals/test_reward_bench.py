"""A reward on labelled pairs: numbers by hand."""

from math import nan

import numpy as np
import pytest

from align.data.formats import read, recognise
from align.evals.reward_bench import bench, pair_scores
from align.records import Message, Preference
from align.rewards.base import Rule

SCORES = np.array([[2, 1], [0, 3], [1, 1], [5, 0], [nan, 1.0]])
LENGTHS = np.array([[5, 2], [4, 1], [2, 6], [3, 3], [9, 1.0]])


def test_accuracy_by_source_beside_a_ruler():
    found = bench(SCORES, LENGTHS, ["a", "a", "b", "b", "c"])
    assert (found["pairs"], found["unscored"]) == (4, 1), "what was not scored is counted, not guessed"
    assert found["accuracy"] == (1 + 0 + 0.5 + 1) / 4
    assert found["length_accuracy"] == (1 + 1 + 0 + 0.5) / 4 and found["length_lead"] == 0
    assert {tag: (v["accuracy"], v["n"]) for tag, v in found["tags"].items()} == {"a": (0.5, 2), "b": (0.75, 2)}
    assert found["mean_over_tags"] == 0.625
    shorter = bench(SCORES, -LENGTHS, [""] * 5)
    assert shorter["length_accuracy"] == found["length_accuracy"], "the ruler measures from the better end"


def test_probabilities_are_those_of_bradley_terry():
    leads = np.log([3.0, 3.0, 3.0, 1 / 3])  # three quarters sure, and right three times of four
    found = bench(np.stack([leads + 2, np.full(4, 2.0)], 1), LENGTHS[:4], [""] * 4)
    assert found["calibration_error"] == pytest.approx(0, abs=1e-12)
    assert found["brier"] == pytest.approx((3 * 0.25**2 + 0.75**2) / 4)


def test_a_reward_reads_the_last_turn_and_less_may_be_better():
    turns = (Message("assistant", "one two"), Message("user", "more"), Message("assistant", "three"))
    pair = Preference("1", (Message("user", "hi"),), turns, (Message("assistant", "a b c"),))
    seen = []

    def words(prompt, reply):
        seen.append([m.content for m in prompt.prompt])
        return len(reply.split())

    assert pair_scores(Rule("words", words, "lower"), [pair]).tolist() == [[-1, -3]]
    assert seen == [["hi", "one two", "more"], ["hi"]]


def test_the_layouts_of_rewardbench_and_llmbar():
    row = {"prompt": "Why?", "chosen": "So.", "chosen_model": "x", "rejected": "No.", "rejected_model": "y",
           "subset": "alpacaeval-easy", "id": 7}  # fmt: skip
    (pair,) = read(row, recognise(row), {})
    assert (pair.chosen[0].content, pair.rejected[0].content) == ("So.", "No.")
    assert pair.extra["subset"] == "alpacaeval-easy"
    row = {"input": "Why?", "output_1": "No.", "output_2": "So.", "label": 2}
    (pair,) = read(row, recognise(row), {})
    assert (pair.chosen[0].content, pair.rejected[0].content, pair.prompt[0].content) == ("So.", "No.", "Why?")
