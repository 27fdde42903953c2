"""Feedback: labels, and what answers say about a judge; numbers by hand."""

from math import isnan, log

import numpy as np
import pytest

from align.config import Sampling
from align.constitution import Principle
from align.generate.feedback import Judge, label, reliability
from align.records import Message

PROMPT = (Message("user", "Hi"),)
PRINCIPLES = tuple(Principle(name=n, critique="?", revision="!", question=f"{n}?") for n in ("harm", "tone"))
NONE = (0.0, 1.0)


class Bent:
    """Says A with the probability that `of(question)` is, or nothing readable where that is None."""

    def __init__(self, of):
        self.of, self.heard = of, []

    def choose(self, questions, options, progress=None):
        self.heard += questions
        assert options == ("A", "B")
        found = [self.of(question[-1].content if len(question) == 1 else question[0].content) for question in questions]
        return np.log(np.array([[np.nan] * 2 if p is None else [p, 1 - p] for p in found]))

    def generate(self, prompts, sampling, seed, progress=None):
        from align.generate.base import Completion

        self.heard += prompts
        return [Completion(i, 0, "Hm.", (), (), "stop") for i in range(len(prompts))]


def judged(of, count=2, reasoning=None, clamp=NONE, pairs=((PROMPT, "good", "bad"),)):
    generator = Bent(of)
    judge = Judge(generator, PRINCIPLES, count, reasoning, clamp, 0, lambda done, total: None)
    return judge(pairs), generator.heard


def likes_good(question):
    return 0.9 if "(A) good" in question else 0.3


def test_a_label_is_the_mean_over_orders_and_principles():
    (row,), heard = judged(lambda q: likes_good(q) if "harm?" in q else 0.5)
    assert {name: pytest.approx(both) for name, both in row["principles"].items()} == {
        "harm": [0.9, 0.7], "tone": [0.5, 0.5]
    }  # fmt: skip
    assert label(row) == pytest.approx((0.9 + 0.7 + 0.5 + 0.5) / 4)
    assert len(heard) == 4, "two principles in both orders"


def test_a_liking_for_a_letter_cancels():
    (row,), _ = judged(lambda q: 0.8)
    assert label(row) == pytest.approx(0.5)


def test_what_cannot_be_read_is_not_guessed():
    (row,), _ = judged(lambda q: None if "tone?" in q and "(A) bad" in q else likes_good(q))
    assert row["principles"]["tone"] == [pytest.approx(0.9), None]
    assert label(row) == pytest.approx(0.8), "only what was read in both orders counts"
    (row,), _ = judged(lambda q: None)
    assert isnan(label(row))
    assert reliability([row]) == {"unreadable": 1.0}


def test_reasoning_comes_between_and_what_follows_is_clamped():
    (row,), heard = judged(lambda q: 0.99 if "(A) good" in q else 0.01, 1, Sampling(max_new_tokens=5), (0.4, 0.6))
    assert label(row) == pytest.approx(0.6)
    ((name, thoughts),) = row["thoughts"].items()
    assert thoughts == ["Hm.", "Hm."] and name in ("harm", "tone")
    assert [turn.content for turn in heard[-1]][1:] == ["Hm.", "Answer with A or B."]
    assert heard[0][0].content.endswith("Think step by step; do not decide yet.")


def test_principles_are_drawn_for_each_pair_whatever_stands_beside_it():
    pairs = [(PROMPT, f"good {i}", "bad") for i in range(30)]
    together, _ = judged(likes_good, 1, pairs=pairs)
    alone = [judged(likes_good, 1, pairs=[pair])[0][0] for pair in pairs]
    assert together == alone
    assert {name for row in alone for name in row["principles"]} == {"harm", "tone"}


def row(**principles):
    return {"principles": principles}


def test_what_answers_say_about_a_judge():
    rows = [row(harm=[0.9, 0.7], tone=[0.8, 0.8]), row(harm=[0.2, 0.4], tone=[0.6, 0.6]), row(harm=[0.9, 0.2])]
    told = reliability(rows)
    # P(A) is p in the first order and 1 - p in the other: 0.6, 0.5, 0.4, 0.5, 0.85.
    assert told["position_bias"] == pytest.approx((0.6 + 0.5 + 0.4 + 0.5 + 0.85) / 5 - 0.5)
    # Means by order: (0.85, 0.75) same; (0.4, 0.5) no opinion in one, so not the same; (0.9, 0.2) turned.
    assert told["order_agreement"] == pytest.approx(1 / 3)
    # About a half: f = 0.35, -0.1, 0.4 and b = 0.25, 0, -0.3; f b = 0.0875, 0, -0.12 over 0.0925, 0.005, 0.125.
    assert told["consistency"] == pytest.approx((0.0875 - 0.12) / (0.0925 + 0.005 + 0.125))
    assert told["consistency_low"] < told["consistency"] < told["consistency_high"]
    assert told["principle_agreement"] == 0.5, "the principles agree on the first pair, not on the second"
    labels = [0.8, 0.45, 0.55]
    assert told["label_entropy"] == pytest.approx(np.mean([-p * log(p) - (1 - p) * log(1 - p) for p in labels]))
    assert told["unreadable"] == 0


@pytest.mark.parametrize(("both", "consistency"), [([0.9, 0.9], 1.0), ([0.9, 0.1], -1.0), ([0.9, 0.5], 0.0)])
def test_one_opinion_the_same_letter_and_none(both, consistency):
    told = reliability([row(harm=both), row(harm=[1 - p for p in both])] * 5)
    assert told["consistency"] == pytest.approx(consistency)
    assert told["consistency_low"] == pytest.approx(consistency)


def test_a_judge_without_any_opinion_has_no_consistency():
    told = reliability([row(harm=[0.5, 0.5])] * 9)
    assert "consistency" not in told and told["order_agreement"] == 0
