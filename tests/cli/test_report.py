"""A comparison as a table: values by hand, marks from the paired intervals."""

from __future__ import annotations

import io
import json

from rich.console import Console

from align.cli import report


def value(mean: float, low: float, high: float) -> dict:
    return {"value": mean, "low": low, "high": high, "n": 100}


def pair(metric: str, policy: str, difference: float, sure: bool = True, baseline: str = "base") -> dict:
    return {"metric": metric, "policy": policy, "baseline": baseline, "difference": difference, "sure": sure}


FOUND = {
    "verdicts": ["politeness: sft beats base: +0.25", "nll: sft loses to base: +0.25"],
    "policies": {
        "base": {"politeness": value(0.25, 0.2, 0.3), "nll": value(1.5, 1.4, 1.6), "words": value(12, 11, 13)},
        "sft": {"politeness": value(0.5, 0.45, 0.55), "nll": value(1.75, 1.65, 1.85), "words": value(9, 8, 10)},
        "dpo": {"politeness": value(0.26, 0.2, 0.32), "nll": value(1.25, 1.2, 1.3)},
    },
    "pairs": [
        pair("politeness", "sft", 0.25),
        pair("politeness", "dpo", 0.01, sure=False),
        pair("politeness", "dpo", -0.24, baseline="sft"),
        pair("nll", "sft", 0.25),
        pair("nll", "dpo", -0.25),
        pair("words", "sft", -3),
    ],
    "notes": ["words of dpo are not shown"],
    "better": {"politeness": "higher", "nll": "lower", "words": None},
}


def test_the_table(tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps(FOUND))
    console = Console(width=80, record=True, file=io.StringIO())
    report.show(tmp_path, "toy/result", console)
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines[1:] == [
        "toy/result",
        "base sft dpo",
        "politeness ↑ 0.25 ±0.05 0.5 ±0.05 + 0.26 ±0.06",
        "nll ↓ 1.5 ±0.1 1.75 ±0.1 - 1.25 ±0.05 +",
        "words 12 ±1 9 ±1",
        "words of dpo are not shown",
        "95 % intervals (rates: Wilson); arrows: what is better; + better, - worse than",
        "base (paired, Holm)",
        "politeness: sft beats base: +0.25",
    ]


def test_a_report_of_another_kind_shows_nothing(tmp_path):
    console = Console(width=80, record=True, file=io.StringIO())
    report.show(tmp_path, "toy/result", console)
    assert console.export_text() == ""


def test_policies_that_do_not_fit_beside_each_other_get_a_table_of_their_own():
    """The metric's name must stand in every line; a table that is too wide would lose it."""
    console = Console(width=45, record=True, file=io.StringIO())
    console.print(report.comparison(FOUND, "toy/result", 45))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert [line for line in lines if line.startswith("politeness ")] == [
        "politeness ↑ 0.25 ±0.05 0.5 ±0.05 +", "politeness ↑ 0.26 ±0.06",
    ]  # fmt: skip


def test_the_first_metric_is_put_in_words():
    assert report.headline(FOUND) == ["politeness: sft beats base: +0.25"]
