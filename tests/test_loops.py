"""Loops: how a group is unrolled and what is refused of it; how its gates judge, and what follows from that (trap 29).

The policies of these tests are numbers: each round adds `step`, and comparisons know everything to 0.5. `good` is the
policy's number, `worn` is 0 up to 2 and rises by 2 a step from there on.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from align.errors import CheckError, RecipeError
from align.machine import Machine
from align.recipe import load
from align.runner import Outcome, check, plan, run
from align.stage import Context
from align.stages.loop_gate import LoopGate, judge
from align.store import Artifact, Store

LOOP = """\
name: loops
plugins: [loop_stages.py]
models:
  base: {path: model}
data:
  demos: {path: demos.jsonl}
stages:
  sft: {stage: improve, policy: $base, step: 0}
  cai:
    rounds: 2
    start: {policy: $sft}
    stages:
      told: {stage: contrast, policies: [$policy, $tune]}
      tune: {stage: improve, policy: $policy, data: $said}
      said: {stage: write, policy: $policy}
    next: {policy: $tune}
    gate: {metric: worn, max_increase: 0.5}
  after: {stage: improve, policy: $cai, data: $demos}
  result: {stage: contrast, policies: [$sft, $cai, $after]}
"""

ROUND = ["said", "tune", "told", "gate"]


class Folder:
    """A recipe with a loop in a folder of its own, and what its runs told."""

    def __init__(self, path: Path):
        self.path, self.store, self.events = path, Store(path / "store"), []
        shutil.copy(Path(__file__).parent / "loop_stages.py", path)
        (path / "model").mkdir()
        (path / "demos.jsonl").write_text('{"text": "a demonstration"}\n')
        self.write(LOOP)

    def write(self, text: str) -> None:
        (self.path / "r.yaml").write_text(text)

    def recipe(self, *overrides: str, smoke: bool = False) -> Any:
        return load(self.path / "r.yaml", overrides, smoke=smoke)

    def plan(self, *overrides: str, **options: Any) -> dict[str, str]:
        return {step.stage: step.state for step in plan(self.recipe(*overrides), self.store, **options).steps}

    def run(self, *overrides: str, **options: Any) -> Outcome:
        self.events.clear()
        (self.path / "trace").write_text("")
        return run(self.recipe(*overrides), self.store, Machine(threads=1), emit=self.events.append, **options)

    @property
    def trace(self) -> list[str]:
        """The stages that the last run computed, gates left out."""
        return (self.path / "trace").read_text().split()

    def told(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event]

    def value(self, name: str) -> float:
        return float((self.store.root / "loops" / name / "value").read_text())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


def names(round_: int) -> list[str]:
    return [f"cai@{round_}.{stage}" for stage in ROUND]


# Unrolling


def test_a_loop_is_ordinary_stages_round_after_round(folder: Folder) -> None:
    made = folder.recipe()
    assert list(made.stages) == ["sft", *names(1), *names(2), "after", "result"]
    assert made.inputs("cai@1.tune") == {"policy": "sft", "data": "cai@1.said"}
    assert made.inputs("cai@2.tune") == {"policy": "cai@1.tune", "data": "cai@2.said"}
    gate = {"policy": "cai@2.tune", "parent": "cai@1.tune", "limits.0.report": "cai@2.told"}
    assert made.inputs("cai@2.gate") == gate
    assert made.inputs("result") == {"policies.0": "sft", "policies.1": "cai", "policies.2": "after"}
    assert dict(made.loops["cai"].results) == {"cai": ("sft", "cai@1.tune", "cai@2.tune")}
    assert made.warnings == ()


def test_overrides_reach_into_a_group(folder: Folder) -> None:
    long = "stages.cai.stages.said.policy=$base"
    made = folder.recipe("cai.rounds=3", "cai.tune.step=2", "cai.gate.max_increase=0", long)
    assert len(made.loops["cai"].rounds) == 3
    assert [made.stages[f"cai@{k}.tune"].step for k in (1, 2, 3)] == [2, 2, 2]
    assert made.stages["cai@3.gate"].limits[0].max_increase == 0
    assert made.inputs("cai@3.said") == {"policy": "base"}


def test_what_next_leaves_out_stays_and_several_results_have_names(folder: Folder) -> None:
    folder.write(LOOP.replace("start: {policy: $sft}", "start: {policy: $sft, rows: $demos, judge: $liked}")
                 .replace("data: $said", "data: $rows, reward: $judge")
                 .replace("next: {policy: $tune}", "next: {judge: $like, policy: $tune}")
                 .replace("      told:", "      like: {stage: like, data: $said}\n      told:")
                 .replace("  cai:\n", "  liked: {stage: like, data: $demos}\n  cai:\n")
                 .replace("policy: $cai, data", "policy: $cai.policy, reward: $cai, data")
                 .replace("[$sft, $cai, $after]", "[$sft, $cai.policy, $after]"))  # fmt: skip
    made = folder.recipe()
    assert made.inputs("cai@2.tune") == {"policy": "cai@1.tune", "data": "demos", "reward": "cai@1.like"}
    assert dict(made.loops["cai"].results) == {
        "cai": ("liked", "cai@1.like", "cai@2.like"),
        "cai.judge": ("liked", "cai@1.like", "cai@2.like"),
        "cai.policy": ("sft", "cai@1.tune", "cai@2.tune"),
    }
    keys = made.keys(lambda path: path.name)
    assert keys["after"].awaits == "cai"


@pytest.mark.slow
def test_a_loop_can_begin_with_what_another_decides_on(folder: Folder) -> None:
    text = LOOP.replace("gate: {metric: worn, max_increase: 0.5}", "gate: {metric: worn, max: 1}")
    second = text[text.index("  cai:") : text.index("  after:")].replace("cai:", "more:").replace("$sft", "$cai")
    folder.write(text.replace("  after:", second + "  after:").replace("policy: $cai, data", "policy: $more, data"))
    outcome = folder.run()
    assert outcome.errors == {}
    # 1 and 2 are not worn; 3 is, with an interval from 1.5 to 2.5.
    assert [(e["loop"], e["round"]) for e in folder.told("loop_decided")] == [("cai", 2), ("more", 0)]
    assert (folder.value("cai"), folder.value("more"), folder.value("after")) == (2.0, 2.0, 3.0)
    assert {n for n, state in outcome.states.items() if state == "skipped"} == {f"more@2.{s}" for s in ROUND}


def test_a_round_with_the_same_inputs_is_the_same_round(folder: Folder) -> None:
    """Neither the name of a stage nor the number of its round is in its key."""
    keys = folder.recipe().keys(lambda path: path.name)
    plain = LOOP[: LOOP.index("  cai:")] + (
        "  said: {stage: write, policy: $sft}\n  a: {stage: improve, policy: $sft, data: $said}\n"
        "  more: {stage: write, policy: $a}\n  b: {stage: improve, policy: $a, data: $more}\n"
    )
    folder.write(plain)
    flat = folder.recipe().keys(lambda path: path.name)
    assert (flat["a"], flat["b"]) == (keys["cai@1.tune"], keys["cai@2.tune"])
    assert keys["cai"].awaits == keys["after"].awaits == keys["result"].awaits == "cai"
    assert keys["cai@2.gate"].awaits == ""


# What is refused


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("rounds: 2", "rounds: 0", "r.yaml:10: stages.cai.rounds: should be greater than or equal to 1, found 0"),
        ("    rounds: 2\n", "", "r.yaml:9: stages.cai.rounds: is missing. How often the stages run, at most."),
        ("rounds: 2", "round: 2", "r.yaml:10: stages.cai.round: unknown key 'round'. Did you mean 'rounds'?"),
        ("start: {policy: $sft}", "start: {policy: $stf}",
         "r.yaml:11: stages.cai.start.policy: no stage, model or dataset is called 'stf'. Did you mean 'sft'?"),
        ("start: {policy: $sft}", "start: {policy: sft}", "r.yaml:11: stages.cai.start.policy: expected a reference"),
        ("start: {policy: $sft}", "start: {policy: $sft, sft: $base}",
         "r.yaml:11: stages.cai.start.sft: 'sft' is taken already; `$sft` must mean one thing"),
        ("start: {policy: $sft}", "start: {policy: $demos}",
         "r.yaml:14: stages.cai.stages.tune.policy: needs a policy, but 'policy' is a dataset"),
        ("start: {policy: $sft}", "start: {policy: $demos}",
         "r.yaml:16: stages.cai.next.policy: 'policy' begins as $demos, a dataset, but 'tune' makes a policy"),
        ("next: {policy: $tune}", "next: {policy: $sft}",
         "r.yaml:16: stages.cai.next.policy: no stage of this group is called 'sft', and only what a round makes goes"),
        ("next: {policy: $tune}", "next: {polcy: $tune}",
         "r.yaml:16: stages.cai.next.polcy: `start` has no 'polcy' that it could follow. Did you mean 'policy'?"),
        ("next: {policy: $tune}", "next: {policy: $said}",
         "r.yaml:16: stages.cai.next.policy: 'policy' begins as $sft, a policy, but 'said' makes records"),
        ("data: $said}", "data: $sayd}",
         "r.yaml:14: stages.cai.stages.tune.data: no stage, model or dataset is called 'sayd'. Did you mean 'said'?"),
        ("data: $said}", "data: $said, stepp: 1}",
         "r.yaml:14: stages.cai.stages.tune.stepp: unknown key 'stepp'. Did you mean 'step'?"),
        ("policy: $policy, data", "policy: $said, data",
         "r.yaml:14: stages.cai.stages.tune.policy: needs a policy, but 'said' makes records"),
        ("said: {stage: write", "said: {stage: wirte",
         "r.yaml:15: stages.cai.stages.said.stage: no stage is called 'wirte'. Did you mean 'write'?"),
        ("said: {stage: write, policy: $policy}", "said: {stage: write, policy: $tune}",
         "r.yaml:14: stages.cai.stages.tune: needs its own result: tune -> said -> tune"),
        ("start: {policy: $sft}", "start: {policy: $after}",
         "r.yaml:9: stages.cai: needs its own result: cai -> after -> cai"),
        ("said: {stage: write, policy: $policy}", "said: {rounds: 2, stages: {}}",
         "r.yaml:15: stages.cai.stages.said: a group stands by itself, not within another"),
        ("said: {stage: write", "gate: {stage: write", "r.yaml:15: stages.cai.stages.gate: 'gate' is what the loop's"),
        ("said: {stage: write", "after: {stage: write",
         "r.yaml:15: stages.cai.stages.after: 'after' is taken already; `$after` must mean one thing"),
        ("[$sft, $cai, $after]", "[$sft, $tune]",
         "r.yaml:19: stages.result.policies.1: $tune is for the stages of the group 'cai'. Did you mean $cai?"),
        ("[$sft, $cai, $after]", "[$sft, $cai@1.tune]",
         "r.yaml:19: stages.result.policies.1: $cai@1.tune is for the stages of the group 'cai'. Did you mean $cai?"),
        ("data: $demos", "data: $cai", "r.yaml:18: stages.after.data: needs records, but 'cai' makes a policy"),
        ("{metric: worn, max_increase: 0.5}", "{metric: wron, max_increase: 0.5}",
         "r.yaml:17: stages.cai.gate.metric: 'told' measures no 'wron'. Did you mean 'worn'?"),
        ("{metric: worn, max_increase: 0.5}", "[{metric: worn, max: 1}, {metric: good}]",
         "r.yaml:17: stages.cai.gate.1.metric: 'good' has no limit; give one of max_increase, "),
        ("{metric: worn, max_increase: 0.5}", "{metric: worn, max_increase: -1}",
         "r.yaml:17: stages.cai.gate.max_increase: should be greater than or equal to 0, found -1"),
        ("{metric: worn, max_increase: 0.5}", "{metric: worn, report: $said, max: 1}",
         "r.yaml:17: stages.cai.gate.report: no stage of this group that makes a report is called 'said'."),
        ("policies: [$policy, $tune]", "policies: [$sft, $tune]", "r.yaml:17: stages.cai.gate.report: 'told' must "
         "compare $tune with $policy, which it was made from, to be read by the gate"),
        ("      said:", "      also: {stage: contrast, policies: [$tune]}\n      said:", "r.yaml:18: stages.cai.gate: "
         "which report has 'worn'? Of the group's stages that make one there are told, also: say `report: $told`"),
        ("      told: {stage: contrast, policies: [$policy, $tune]}\n", "", "r.yaml:16: stages.cai.gate: which report "
         "has 'worn'? Of the group's stages that make one there is none"),
        ("next: {policy: $tune}", "next: {rows: $said}", "r.yaml:17: stages.cai.gate: a gate compares policies, but "
         "`next` hands on none"),
    ],
)  # fmt: skip
def test_one_mistake_is_told_with_its_place_and_what_is_right(
    folder: Folder, old: str, new: str, problem: str
) -> None:
    assert LOOP.count(old) >= 1
    folder.write(LOOP.replace(old, new, 1))
    with pytest.raises(RecipeError) as caught:
        folder.recipe()
    told = list(map(str, caught.value.problems))
    assert any(line.startswith(problem) for line in told), told


def test_what_a_stage_refuses_only_once_it_is_unrolled_is_told_with_the_round(folder: Folder) -> None:
    twice = "stage: compare, prompts: $demos, policies: [$sft, $policy"
    folder.write(LOOP.replace("stage: contrast, policies: [$policy", twice).replace("metric: worn", "metric: stop"))
    with pytest.raises(RecipeError) as caught:
        folder.recipe()
    assert list(map(str, caught.value.problems)) == [
        "r.yaml:13: stages.cai.stages.told.policies: in round 1: $sft is there twice"
    ]


def test_a_name_that_the_group_does_not_use_is_a_warning_with_its_line(folder: Folder) -> None:
    folder.write(LOOP.replace("start: {policy: $sft}", "start: {policy: $sft, rows: $demos}"))
    assert list(map(str, folder.recipe().warnings)) == [
        "r.yaml:11: stages.cai.start.rows: no stage of the group refers to it"
    ]


def test_a_stage_may_have_a_field_called_rounds(folder: Folder) -> None:
    plugin = folder.path / "loop_stages.py"
    plugin.write_text(plugin.read_text().replace("    step: float = 1.0", "    rounds: int = 1\n    step: float = 1.0"))
    folder.write(LOOP.replace("step: 0", "rounds: 3"))
    assert folder.recipe().stages["sft"].rounds == 3


# Judging


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
    """What a gate writes of a round that brings `good` from 0 to 3 and `worn` from 0 to 2, both known to 0.5."""
    first, second = ("new", "old") if flipped else ("old", "new")
    rises = {"good": 3.0, "worn": 2.0}

    def about(number: float, name: str) -> dict[str, float]:
        return {name: number, "low": number - 0.5, "high": number + 0.5, "n": n}

    pairs = [
        about(-rise if flipped else rise, "difference") | {"metric": metric, "policy": second, "baseline": first}
        for metric, rise in rises.items()
    ]
    policies = {"old": {}, "new": {metric: about(rise, "value") for metric, rise in rises.items()}}
    (folder / "comparison.json").write_text(json.dumps({"policies": policies, "pairs": pairs}))
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
    ],
)
def test_guards_fail_where_a_breach_is_shown_and_demands_pass_where_a_change_is(
    tmp_path: Path, limit: dict[str, Any], verdict: str, passed: bool
) -> None:
    for flipped in (False, True):
        found = gated(tmp_path, limit, flipped=flipped)
        assert ([one["verdict"] for one in found["limits"]], found["passed"]) == ([verdict], passed)


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


# Running


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
