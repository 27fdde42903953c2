"""How a group with rounds becomes ordinary stages."""

from __future__ import annotations

import pytest

from tests.loops.conftest import LOOP, ROUND, Folder, names


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


def test_a_stage_may_have_a_field_called_rounds(folder: Folder) -> None:
    plugin = folder.path / "loop_stages.py"
    plugin.write_text(plugin.read_text().replace("    step: float = 1.0", "    rounds: int = 1\n    step: float = 1.0"))
    folder.write(LOOP.replace("step: 0", "rounds: 3"))
    assert folder.recipe().stages["sft"].rounds == 3
