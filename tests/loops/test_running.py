"""Loops at work: which rounds count, what is kept, and what is made again."""

from __future__ import annotations

import json

import pytest

from align.errors import RecipeError
from align.machine import Machine
from align.runner import check, plan
from align.store import Artifact
from tests.loops.conftest import LOOP, Folder, names


def test_every_round_that_passes_is_built_upon_and_a_stricter_gate_computes_no_round_again(folder: Folder) -> None:
    assert folder.plan() == dict.fromkeys(["sft", *names(1), *names(2)], "run") | {
        "after": "pending", "result": "pending",
    }  # fmt: skip
    outcome = folder.run()
    assert outcome.errors == {} and set(outcome.states.values()) == {"finished"}
    assert (folder.value("cai"), folder.value("after")) == (2.0, 3.0)
    [decided] = folder.told("loop_decided")
    assert (decided["round"], decided["stopped"], decided["results"]) == (2, False, {"cai": "cai@2.tune"})
    taken = outcome.artifacts["result"].manifest["inputs"]["policies.1"]
    made = outcome.artifacts["cai@2.tune"]
    said = "cai is cai@2.tune: round 2 is the last and passed its gate"
    assert taken == {"name": "cai", "key": made.key, "decided": said}
    assert folder.store.get("loops/cai") == made
    assert folder.store.last("loops")["cai"] == {"key": made.key, "decided": said}
    found = json.loads((outcome.artifacts["result"].path / "comparison.json").read_text())
    assert list(found["policies"]) == ["sft", "cai", "after"]

    assert set(folder.plan().values()) == {"cached"}
    assert set(folder.run().states.values()) == {"cached"} and folder.trace == []
    assert [e["text"] for e in folder.told("loop_decided")] == [said]

    outcome = folder.run("cai.gate.min_increase=9")
    assert folder.trace == ["after", "result"]
    assert (folder.value("cai"), folder.value("after")) == (0.0, 1.0)
    [decided] = folder.told("loop_decided")
    assert decided["text"].startswith("cai is sft, as no round passed its gate: the loop stopped after round 1: worn")
    assert outcome.states["cai@2.gate"] == "skipped" and outcome.exit_code == 0


@pytest.mark.slow
def test_another_round_keeps_the_first(folder: Folder) -> None:
    folder.run("cai.rounds=1")
    made = folder.plan()
    assert [n for n, state in made.items() if state != "cached"] == [*names(2), "after", "result"]
    folder.run()
    assert folder.trace == ["cai@2.said", "cai@2.tune", "cai@2.told", "after", "result"]


def test_a_round_that_fails_its_gate_stops_the_loop_and_the_better_policy_stays(folder: Folder) -> None:
    """Round 3 is worn by 2 more, with an interval from 1.5 to 2.5; rounds 1 and 2 are not worn at all."""
    outcome = folder.run("cai.rounds=4")
    assert outcome.exit_code == 0
    assert {n for n, state in outcome.states.items() if state == "skipped"} == set(names(4))
    because = (
        "the loop stopped after round 3: worn of cai@3.tune is +2 [1.5, 2.5] against cai@2.tune, n = 100, and may rise "
        "by 0.5: breached"
    )
    assert {e["because"] for e in folder.told("stage_skipped")} == {because}
    [decided] = folder.told("loop_decided")
    assert (decided["round"], decided["stopped"], decided["text"]) == (2, True, f"cai is cai@2.tune: {because}")
    assert (folder.value("cai"), folder.value("after")) == (2.0, 3.0)
    made = folder.plan("cai.rounds=4")
    assert {n for n, state in made.items() if state == "skipped"} == set(names(4))
    assert {state for n, state in made.items() if n not in names(4)} == {"cached"}


@pytest.mark.slow
def test_what_a_loop_began_with_may_be_a_model_from_outside(folder: Folder) -> None:
    folder.run()
    assert folder.store.get("loops/cai")
    folder.write(LOOP.replace("start: {policy: $sft}", "start: {policy: $base}"))
    folder.run("cai.gate.min_increase=9")
    assert folder.value("after") == 1.0
    assert not (folder.store.root / "loops" / "cai").exists()  # nothing made here is what it means


def test_without_a_gate_the_last_round_counts_and_is_known_beforehand(folder: Folder) -> None:
    folder.write(LOOP.replace("    gate: {metric: worn, max_increase: 0.5}\n", ""))
    assert folder.plan() == dict.fromkeys(["sft", *names(1)[:3], *names(2)[:3], "after", "result"], "run")
    known = plan(folder.recipe("cai.rounds=3"), folder.store)
    assert known.decided("cai") == "cai is cai@3.tune: round 3 is the last"
    assert known.keys["cai"] == known.keys["cai@3.tune"]


@pytest.mark.slow
def test_a_killed_loop_goes_on_where_it_was(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILL", "cai@2.tune")
    outcome = folder.run()
    lost = {n: state for n, state in outcome.states.items() if state != "finished"}
    assert lost == {"cai@2.tune": "failed"} | dict.fromkeys(["cai@2.told", "cai@2.gate", "after", "result"], "skipped")
    assert folder.told("loop_decided") == []
    assert {e["because"] for e in folder.told("stage_skipped")} >= {"'cai@2.tune' failed"}
    assert folder.run().exit_code == 0
    assert folder.trace == ["cai@2.tune", "cai@2.told", "after", "result"]


def test_until_and_only_take_loops_by_name(folder: Folder) -> None:
    with pytest.raises(RecipeError, match=r"stages\.after: needs 'cai@1.said', .*'cai@2.gate', which is yet"):
        folder.run(only="after")
    with pytest.raises(RecipeError, match=r"--until: no stage is called 'ca'\. Did you mean 'cai'\?"):
        folder.run(until="ca")
    assert list(folder.plan(until="cai@1.told")) == ["sft", "cai@1.said", "cai@1.tune", "cai@1.told"]
    assert list(folder.plan(until="cai@2.said")) == ["sft", *names(1), "cai@2.said"]
    assert list(folder.plan(until="after")) == ["sft", *names(1), *names(2), "after"]


@pytest.mark.slow
def test_a_loop_alone_then_what_takes_its_result(folder: Folder) -> None:
    folder.run(until="cai")
    assert [e["round"] for e in folder.told("loop_decided")] == [2]
    assert folder.run(only="after").states == {"after": "finished"}
    assert folder.plan(only="cai") == dict.fromkeys([*names(1), *names(2)], "cached")
    assert folder.plan(only="cai", fresh=["cai"]) == dict.fromkeys([*names(1), *names(2)], "run")


@pytest.mark.slow
def test_a_loop_that_is_made_afresh_decides_anew(folder: Folder) -> None:
    before = folder.run().artifacts
    fresh = folder.plan(fresh=["cai@2.tune"])
    assert [n for n, state in fresh.items() if state == "run"] == ["cai@2.tune", "cai@2.told", "cai@2.gate"]
    assert [n for n, state in fresh.items() if state == "pending"] == ["after", "result"]
    outcome = folder.run(fresh=["cai@2.tune"])
    assert folder.trace == ["cai@2.tune", "cai@2.told", "after", "result"]
    known = [artifacts["after"].manifest.get("supersedes") for artifacts in (before, outcome.artifacts)]
    assert known[1] is not None and set(folder.plan().values()) == {"cached"}


@pytest.mark.slow
def test_what_a_stopped_run_was_to_make_afresh_is_not_taken_for_done(folder: Folder, monkeypatch) -> None:
    folder.run()
    monkeypatch.setenv("KILL", "after")
    assert folder.run(fresh=["cai@2.tune"]).states["after"] == "failed"
    states = folder.plan()
    assert {n for n, state in states.items() if state != "cached"} == {"after", "result"}


def test_checks_see_what_a_loop_s_policies_will_descend_from(folder: Folder) -> None:
    found = check(folder.recipe(), folder.store, Machine())
    assert found.errors == {}
    improved = ["sft", "cai@1.tune", "cai@2.tune", "after"]
    assert {n for n, figures in found.figures.items() if figures} == set(improved)


def test_in_a_smoke_run_every_round_counts(folder: Folder) -> None:
    made = folder.recipe("cai.gate.min_increase=9", smoke=True).loops["cai"]
    gate = folder.path / "gate"
    gate.mkdir()
    (gate / "gate.json").write_text('{"passed": false, "because": "no"}')
    found = [made.decision(str, lambda key: Artifact("report", key, gate), smoke) for smoke in (True, False)]
    assert [(one.round, one.stopped) for one in found if one] == [(2, False), (0, True)]
