"""Stage `loop_gate`: what an interval says about a limit, and what follows from that for the round (trap 29)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.errors import CheckError
from align.machine import Machine
from align.stage import Context
from align.stages.loop_gate import LoopGate, judge
from align.store import Artifact, Store


@pytest.mark.parametrize(
    ("low", "high", "n", "guard", "demand"),
    [
        (0.21, 0.4, 50, "breached", "shown"),
        (0.2, 0.4, 50, "not distinguishable", "not distinguishable"),
        (0.1, 0.3, 50, "not distinguishable", "not distinguishable"),
        (0.0, 0.2, 50, "within", "not shown"),
        (0.2, 0.2, 50, "within", "not shown"),
        (0.3, 0.4, 9, "not distinguishable", "not distinguishable"),
    ],
)
def test_a_verdict_says_no_more_than_the_interval(low: float, high: float, n: int, guard: str, demand: str) -> None:
    assert judge(False, low, high, 0.2, n) == guard
    assert judge(True, low, high, 0.2, n) == demand


def gated(folder: Path, *limits: dict[str, Any], flipped: bool = False, n: int = 100) -> dict[str, Any]:
    """What a gate writes of a round that brings `good` from 0 to 3 and `worn` from 0 to 2, both known to 0.5.

    The judge `kind` lets it win 0.8 [0.6, 0.9].
    """
    first, second = ("new", "old") if flipped else ("old", "new")
    rises = {"good": 3.0, "worn": 2.0}

    def about(number: float, name: str) -> dict[str, float]:
        return {name: number, "low": number - 0.5, "high": number + 0.5, "n": n, "clusters": None}

    pairs = [
        about(-rise if flipped else rise, "difference") | {"metric": metric, "policy": second, "baseline": first}
        for metric, rise in rises.items()
    ]
    policies = {"old": {}, "new": {metric: about(rise, "value") for metric, rise in rises.items()}}
    won = {"rate": 0.2, "low": 0.1, "high": 0.4} if flipped else {"rate": 0.8, "low": 0.6, "high": 0.9}
    rates = [{"metric": "kind", "policy": second, "baseline": first, "n": n, "clusters": None} | won]
    (folder / "comparison.json").write_text(json.dumps({"policies": policies, "pairs": pairs, "win_rates": rates}))
    context = Context(
        stage="gate", type="loop_gate", key="", seed=0, inputs={"told": Artifact("report", "", folder)}, keys={},
        store=Store(folder), machine=Machine(), work=folder, out=folder,
    )  # fmt: skip
    asked = [{"report": "$told"} | limit for limit in limits]
    LoopGate.model_validate({"policy": "$new", "parent": "$old", "limits": asked}).run(context)
    return json.loads((folder / "gate.json").read_text())


@pytest.mark.parametrize(
    ("limit", "verdict", "passed"),
    [
        ({"metric": "good", "min_increase": 2.4}, "shown", True),
        ({"metric": "good", "min_increase": 2.5}, "not distinguishable", False),
        ({"metric": "good", "min_increase": 3.5}, "not shown", False),
        ({"metric": "good", "min_decrease": 0}, "not shown", False),
        ({"metric": "good", "max_decrease": 0}, "within", True),
        ({"metric": "worn", "max_increase": 1.4}, "breached", False),
        ({"metric": "worn", "max_increase": 1.6}, "not distinguishable", True),
        ({"metric": "worn", "max_increase": 2.5}, "within", True),
        ({"metric": "worn", "max": 1.4}, "breached", False),
        ({"metric": "worn", "max": 1.6}, "not distinguishable", True),
        ({"metric": "good", "min": 3.4}, "not distinguishable", True),
        ({"metric": "good", "min": 3.6}, "breached", False),
        ({"metric": "good", "min": 2.5}, "within", True),
        ({"metric": "kind/win_rate", "min_increase": 0}, "shown", True),
        ({"metric": "kind/win_rate", "min_increase": 0.2}, "not distinguishable", False),
        ({"metric": "kind/win_rate", "max_decrease": 0}, "within", True),
        ({"metric": "kind/win_rate", "min": 0.95}, "breached", False),
        ({"metric": "kind/win_rate", "max": 0.85}, "not distinguishable", True),
    ],
)
def test_guards_fail_where_a_breach_is_shown_and_demands_pass_where_a_change_is(
    tmp_path: Path, limit: dict[str, Any], verdict: str, passed: bool
) -> None:
    values = []
    for flipped in (False, True):
        found = gated(tmp_path, limit, flipped=flipped)
        assert ([one["verdict"] for one in found["limits"]], found["passed"]) == ([verdict], passed)
        values += [one["value"] for one in found["limits"]]
    assert values[0] == pytest.approx(values[1])


def test_all_limits_must_hold_and_the_reason_names_those_that_do_not(tmp_path: Path) -> None:
    found = gated(tmp_path, {"metric": "good", "min": 1, "max": 9}, {"metric": "worn", "max": 1, "max_increase": 4})
    assert [one["holds"] for one in found["limits"]] == [True, True, True, False]
    assert not found["passed"]
    assert found["because"] == "worn of new is 2 [1.5, 2.5], n = 100, and may be 1 at most: breached"


def test_few_prompts_show_nothing(tmp_path: Path) -> None:
    assert gated(tmp_path, {"metric": "worn", "max_increase": 0}, n=9)["passed"]
    assert not gated(tmp_path, {"metric": "good", "min_increase": 0}, n=9)["passed"]


def test_a_metric_that_was_not_measured_is_an_error_and_no_verdict(tmp_path: Path) -> None:
    for limit in ({"metric": "kl", "max": 1}, {"metric": "kl", "max_increase": 1}):
        with pytest.raises(CheckError, match=r"'kl' of new.*, which \$told does not tell. It compares: good, worn"):
            gated(tmp_path, limit)
