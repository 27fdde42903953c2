"""Loops: a group with `rounds` is unrolled into ordinary stages, and its gates decide what `$group` means.

    cai:
      rounds: 2
      start: {policy: $sft}
      stages:
        revise: {stage: critique_revise, policy: $policy, prompts: $redteam, constitution: harmless}
        tune:   {stage: sft, policy: $policy, data: [$revise, $demos]}
        check:  {stage: compare, policies: [$policy, $tune], prompts: $tests, rewards: [refusal]}
      next: {policy: $tune}
      gate: {metric: refusal, max_increase: 0.02}

becomes `cai@1.revise`, `cai@1.tune`, `cai@1.check`, `cai@1.gate`, `cai@2.revise` and so on. Their keys are made like
those of any stage, from what they are and from their inputs: another round or a stricter gate computes nothing again,
and a round that is given the same inputs is the same round, random numbers included.

A gate is a stage that reads comparisons (`loop_gate`). The first round to fail its gate is the last to run, and `$cai`
is what the round before it made: the last that passed, or what the loop began with where none did. So what `$cai` is,
and with it the keys of what is made from it, is known only when the gates are; until then those keys await the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator

from align.config import Config
from align.recipe.outside import mapped
from align.stage import PolicyRef, Reference, ReportRef, Stage
from align.stages.loop_gate import Limit, LoopGate, judgement
from align.store import Artifact

GATE = "gate"
"""The last stage of every round that has one."""

Find = Callable[[str], Artifact | None]
"""The artifact of a key, if it is there."""


class Group(Config):
    """Stages that run once a round, each round on what the one before has made.

    `$name` of the group is, outside of it, what its last round made that passed its gate, or else what the loop began
    with. A round that fails its gate is the last to run; that is no error, and the run goes on with the better policy.
    """

    rounds: int = Field(ge=1)
    """How often the stages run, at most."""
    start: dict[str, Reference] = Field(min_length=1)
    """What the first round begins with, by the names that the group's own stages use: `{policy: $sft}`."""
    stages: dict[str, dict[str, Any]] = Field(min_length=1)
    """The steps of a round; they refer to one another, to the names under `start`, and to all outside of the group."""
    next: dict[str, Reference] = Field(min_length=1)
    """Which of its stages' results a round hands to the next, under names of `start`; the others stay as they are.
    `$group` is the first of them, and where there are several each is `$group.name`, too."""
    gate: tuple[Limit, ...] = ()
    """What a round's new policy must stand up to against the one it was made from: one limit, or a list."""

    @field_validator("gate", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, Mapping) else value


@dataclass(frozen=True)
class Decision:
    """What became of a loop."""

    round: int
    """The round whose results stand; 0 means what the loop began with."""
    stopped: bool
    """Whether a gate kept later rounds from running, or the last one from being taken."""
    why: str

    def told(self, what: str) -> str:
        """A sentence that says what something turned out to be and why."""
        return f"{what}{'' if self.round else ', as no round passed its gate'}: {self.why}"


@dataclass(frozen=True)
class Loop:
    """An unrolled group."""

    name: str
    rounds: tuple[tuple[str, ...], ...]
    """The names of each round's stages, in the order in which they run, the gate last."""
    results: Mapping[str, tuple[str, ...]]
    """What `cai` (and `cai.policy`, `cai.reward`) may turn out to be: what it began with, then each round's."""
    gated: bool

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(name for names in self.rounds for name in names)

    @property
    def gates(self) -> tuple[str, ...]:
        return tuple(names[-1] for names in self.rounds) if self.gated else ()

    def round_of(self, stage: str) -> int:
        """The round that a stage belongs to, from 1; 0 for a stage outside of the loop."""
        return next((number for number, names in enumerate(self.rounds, 1) if stage in names), 0)

    def gate_before(self, stage: str) -> str | None:
        """The gate that the round before a stage's own must pass."""
        number = self.round_of(stage)
        return self.gates[number - 2] if self.gates and number > 1 else None

    def decision(self, key_of: Callable[[str], str], find: Find, smoke: bool) -> Decision | None:
        """What the gates have decided; None while one that matters has not spoken. In a smoke run all rounds count."""
        last = len(self.rounds)
        for number, gate in enumerate(self.gates, 1):
            made = find(key_of(gate))
            if made is None:
                return None
            passed, because = judgement(made)
            if not passed and not smoke:
                return Decision(number - 1, True, f"the loop stopped after round {number}: {because}")
        return Decision(last, False, f"round {last} is the last" + (" and passed its gate" if self.gated else ""))


def unrolled(name: str, group: Group, stages: Mapping[str, Stage]) -> tuple[Loop, dict[str, Stage]]:
    """A loop and the stages of all its rounds by name. `stages` are those of a round, each after what it refers to."""
    bound = {local: reference.name for local, reference in group.start.items()}
    handed_on = dict(results_of(name, group))
    results = {result: [bound[local]] for result, local in handed_on.items()}
    rounds: list[tuple[str, ...]] = []
    made: dict[str, Stage] = {}
    for number in range(1, group.rounds + 1):
        here = {inner: f"{name}@{number}.{inner}" for inner in (*stages, GATE)}
        after = bound | {local: here[reference.name] for local, reference in group.next.items()}
        this = {here[inner]: _renamed(stage, bound | here) for inner, stage in stages.items()}
        if group.gate:
            local = next(local for local, reference in group.next.items() if stages[reference.name].makes == "policy")
            policy, parent = PolicyRef(after[local]), PolicyRef(bound[local])
            limits = _renamed(_with_reports(group.gate, stages), here)
            this[here[GATE]] = LoopGate(policy=policy, parent=parent, limits=limits)
        for result, local in handed_on.items():
            results[result].append(after[local])
        rounds.append(tuple(this))
        made |= this
        bound = after
    return Loop(name, tuple(rounds), {r: tuple(names) for r, names in results.items()}, bool(group.gate)), made


def _with_reports(limits: tuple[Limit, ...], stages: Mapping[str, Stage]) -> tuple[Limit, ...]:
    """The limits, each with its report, which is the group's only one where none is named."""
    only = ReportRef(next(inner for inner, stage in stages.items() if stage.makes == "report"))
    return tuple(limit.model_copy(update={"report": limit.report or only}) for limit in limits)


def results_of(name: str, group: Group) -> Iterator[tuple[str, str]]:
    """(what the recipe calls it outside of the group, what the group calls it) of all that a round hands on."""
    yield name, next(iter(group.next))
    if len(group.next) > 1:
        yield from ((f"{name}.{local}", local) for local in group.next)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The same with other names in its references."""

    def renamed(place: object, reference: Reference) -> Reference:
        return type(reference)(names.get(reference.name, reference.name))

    return mapped(value, renamed, kinds=(Reference,))
