"""Sentences, from intervals that are given."""

import pytest

from align.evals.statistics import Difference
from align.evals.verdicts import Standing, verdict

CLEAR = Difference(0.21, 0.14, 0.28, 0.0002, 9, 1, 0, 300)
DOWN = Difference(-0.2, -0.3, -0.1, 0.01, 0, 0, 9, 50)
OPEN = Difference(0.1, -0.1, 0.3, 0.3, 9, 1, 5, 120)
EQUAL = Difference(0.0, 0.0, 0.0, 1.0, 0, 12, 0, 12)
FEW = Difference(0.5, 0.4, 0.6, 0.01, 4, 0, 0, 4)
CLOSE = Difference(0.01, -0.02, 0.03, 0.4, 9, 80, 9, 900)


def standing(p, pairs=1, worth=0.05, needed=480):
    return Standing(p, pairs, worth, needed)


@pytest.mark.parametrize(
    ("found", "better", "among", "sentence"),
    [
        (CLEAR, "higher", None, "dpo beats sft: +0.21 [0.14, 0.28], n = 300"),
        (CLEAR, "lower", None, "dpo loses to sft: +0.21 [0.14, 0.28], n = 300"),
        (DOWN, "lower", None, "dpo beats sft: -0.2 [-0.3, -0.1], n = 50"),
        (DOWN, None, None, "dpo is lower than sft: -0.2 [-0.3, -0.1], n = 50"),
        (
            Difference(2000.4, 999.6, 3e3, 0.01, 9, 0, 0, 20), None, None,
            "dpo is higher than sft: +2000 [1000, 3000], n = 20",
        ),
        (
            OPEN, "higher", None,
            "dpo and sft are not distinguishable at n = 120; the difference may lie anywhere from -0.1 to 0.3",
        ),
        (
            OPEN, "higher", standing(0.3),
            "dpo and sft are not distinguishable at n = 120; 480 prompts would show a difference of 0.05",
        ),
        (
            OPEN, "higher", standing(0.3, needed=100),
            "dpo and sft are not distinguishable at n = 120; the difference may lie anywhere from -0.1 to 0.3",
        ),
        (
            DOWN, "higher", standing(0.15, pairs=15),
            "dpo and sft are not distinguishable at n = 50 among 15 pairs; 480 prompts would show a difference of 0.05",
        ),
        (DOWN, "higher", standing(0.04, pairs=4), "dpo loses to sft: -0.2 [-0.3, -0.1], n = 50"),
        (CLOSE, "higher", standing(0.4), "dpo and sft differ by less than 0.05: +0.01 [-0.02, 0.03], n = 900"),
        (
            CLOSE, "higher", standing(0.4, worth=0.025),
            "dpo and sft are not distinguishable at n = 900; the difference may lie anywhere from -0.02 to 0.03",
        ),
        (EQUAL, "higher", standing(1.0), "dpo and sft are equal on all 12 prompts"),
        (
            FEW, "higher", standing(0.01),
            "dpo and sft are not distinguishable at n = 4; fewer than 10 prompts tell nothing",
        ),
    ],
)  # fmt: skip
def test_a_verdict_says_no_more_than_the_interval(found, better, among, sentence):
    assert verdict("politeness", better, "dpo", "sft", found, among) == f"politeness: {sentence}"
