"""What is said first: no more than intervals do. The comparisons are written by hand."""

from __future__ import annotations

import pytest

from align.evals.report.words import against_first, headline, leaders, listed


def found(*sure: tuple[str, str, float], policies: str = "base sft dpo", side: str = "higher") -> dict:
    """A comparison by `m`; `sure` are (policy, baseline, difference) whose intervals leave out 0."""
    names = policies.split()
    told = {(policy, baseline): difference for policy, baseline, difference in sure}
    pairs = [(policy, baseline) for i, policy in enumerate(names) for baseline in names[:i]]
    return {
        "policies": {name: {"m": {"value": 0.25, "low": 0.2, "high": 0.3}} for name in names},
        "better": {"words": None, "m": side},
        "pairs": [
            {"metric": "m", "policy": a, "baseline": b, "difference": told.get((a, b), 0.1), "sure": (a, b) in told}
            for a, b in pairs
        ],
    }


ALL = (("dpo", "base", 0.4), ("dpo", "sft", 0.1), ("sft", "base", 0.3))


@pytest.mark.parametrize(
    ("comparison", "said"),
    [
        (found(*ALL), "dpo beats both others by m"),
        (found(*ALL, side="lower"), "base beats both others by m"),
        (found(("sft", "base", 0.4), policies="base sft"), "sft beats the other by m"),
        (found(("dpo", "base", 0.4), ("dpo", "sft", 0.1)), "dpo beats both others by m"),
        (
            found(("dpo", "base", 0.4), ("sft", "base", 0.3)),
            "Nothing beats sft or dpo by m, and they cannot be told apart",
        ),
        (found(("dpo", "sft", 0.4), ("sft", "base", 0.3)), "Nothing beats dpo by m"),
        (found(), "No checkpoint can be told from another by m"),
        (found(policies="base"), "base reaches 0.25 by m"),
        (found() | {"better": {"m": None}}, "Nothing here says what is better"),
    ],
)
def test_the_headline(comparison, said):
    assert headline(comparison) == said


def test_those_whom_nothing_beats_lead():
    assert leaders(found(("dpo", "base", 0.4), ("sft", "base", 0.3))) == ["sft", "dpo"]


def test_each_is_held_against_the_first():
    worse = found(("dpo", "base", -0.4), ("dpo", "sft", 0.1))
    assert against_first(worse) == [
        "sft and base cannot be told apart by any metric with a better side",
        "dpo, against base, is worse by m",
    ]


def test_words_are_listed():
    assert [listed([]), listed(["a"]), listed(["a", "b"]), listed("abc")] == ["", "a", "a and b", "a, b and c"]
