"""What is refused of a loop while its recipe is read, with the place and what would be right."""

from __future__ import annotations

import pytest

from align.errors import RecipeError
from tests.loops.conftest import LOOP, Folder


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
def test_one_mistake_is_told_with_its_place_and_what_is_right(folder: Folder, old: str, new: str, problem: str) -> None:
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
