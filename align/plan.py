"""What a run would do: which stages are there already, which will run, and what changed since the last run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from align.errors import RecipeError, suggestion
from align.plugins import files_of
from align.recipe import Key, Recipe
from align.recipe.keys import blocks
from align.recipe.loops import Decision, Find
from align.rewards.base import REWARDS, RewardSpec
from align.stage import Kind, Stage
from align.store import Artifact, Store


@dataclass(frozen=True)
class Step:
    """One stage of a plan."""

    stage: str
    """Its name in the recipe."""
    type: str
    """The registered name of its class."""
    kind: Kind
    key: str
    state: Literal["cached", "run", "pending", "skipped", "blocked"]
    """`pending` steps run or are found once a loop is decided; `skipped` ones come after a round that failed."""
    why: str
    changed: tuple[str, ...] = ()
    """What makes its key differ from the last run's, such as `beta: 0.1 -> 0.2`."""
    warning: str = ""
    artifact: Artifact | None = None
    fresh: bool = False
    """Whether it is made from the start, though its artifact or what a killed run left of it is there."""
    outdated: tuple[str, ...] = ()
    """The stages outside the plan that were made from its artifact, which it replaces: later runs make them afresh."""


@dataclass(frozen=True)
class Plan:
    """The stages that were asked for, each after its inputs."""

    recipe: Recipe
    keys: Mapping[str, Key]
    """Of every stage and outside input of the recipe."""
    steps: tuple[Step, ...]
    decisions: Mapping[str, Decision | None] = field(default_factory=dict)
    """What became of each loop; None while that is open."""

    @property
    def to_run(self) -> list[Step]:
        return [step for step in self.steps if step.state not in ("cached", "skipped")]

    def meaning(self, name: str) -> str:
        """What a result of a loop turned out to be; any other name means itself."""
        while (loop := self.recipe.loop_of(name)) and (decision := self.decisions.get(loop.name)):
            name = loop.results[name][decision.round]
        return name

    def decided(self, name: str) -> str:
        """A sentence on what a result of a loop turned out to be; empty for other names, and while that is open."""
        loop = self.recipe.loop_of(name)
        decision = self.decisions[loop.name] if loop else None
        return decision.told(f"{name} is {self.meaning(name)}") if decision else ""

    def parent(self, name: str) -> str | None:
        """What a policy or a reward model descends from: its stage's own `policy`, the reward that a gate lets pass, or
        what an open loop began with."""
        if loop := self.recipe.loop_of(name):
            return loop.results[name][0]
        stage = self.recipe.stages.get(name)
        if stage is None or stage.makes not in ("policy", "reward"):
            return None
        inputs = self.recipe.inputs(name)
        return inputs.get("policy", inputs.get("reward"))

    def needs(self, stage: str) -> list[str]:
        """The stages that must be there before one can run."""
        return _needs(self.recipe, stage, self.meaning)

    def stopped(self, stage: str) -> str:
        """Why a stage of a loop does not run: a round before its own failed its gate. Empty for all others."""
        for name, loop in self.recipe.loops.items():
            decision = self.decisions[name]
            if decision and decision.stopped and loop.round_of(stage) > decision.round + 1:
                return decision.why
        return ""


def plan(
    recipe: Recipe, store: Store, *, until: str | None = None, only: str | None = None, fresh: Iterable[str] = (),
    made: Container[str] = (),
) -> Plan:  # fmt: skip
    """What `run` with the same arguments would do.

    `until` asks for one stage and all that it needs, `only` for one stage from inputs that are there; `fresh` stages
    run although their artifact is there, and so do those that were made from it. The name of a loop stands for its
    stages. `made` are the stages that this very run has made: gates among them decide, `fresh` or not.
    """
    chosen, fresh = _chosen(recipe, until, only, tuple(fresh))
    graph = _graph(recipe, store, store.find)
    last = {name: run for name, run in store.last(recipe.name).items() if "parts" in run}  # loops' results have none
    afresh, before = _afresh(graph, store, chosen, fresh), graph.keys
    if afresh and recipe.loops:
        # A gate that is made afresh has not spoken yet; what it said before is still in the store.
        unsaid = {before[name].value for name in afresh if name not in made}
        graph = _graph(recipe, store, lambda key: None if key in unsaid else store.find(key))
        afresh = _afresh(graph, store, chosen, fresh)
    steps: list[Step] = []
    for name in chosen:
        missing = [n for n in graph.needs(name) if n not in chosen and store.find(graph.keys[n].value) is None]
        outdated = tuple(_outdated(graph, store, chosen, name)) if name in afresh else ()
        step = _step(graph, name, store, last.get(name), afresh.get(name), missing, outdated)
        steps.append(replace(step, key=before[name].value) if step.state == "pending" else step)
    return replace(graph, steps=tuple(steps))


def _graph(recipe: Recipe, store: Store, find: Find) -> Plan:
    """The recipe with its keys and what its loops have come to, but no steps."""
    keys = recipe.keys(store.hash_of, find)
    loops = recipe.loops.items()
    decisions = {name: loop.decision(lambda stage: keys[stage].value, find, recipe.smoke) for name, loop in loops}
    return Plan(recipe, keys, (), decisions)


def code_of(stage: Stage) -> str:
    """Hash of the files that define a stage and the rules that it scores by; empty where there are none."""
    rules = [REWARDS[b.rule].function for b in blocks(stage) if isinstance(b, RewardSpec) and b.rule in REWARDS.names()]
    files = dict.fromkeys(file for thing in (type(stage), *rules) for file in files_of(thing))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16] if files else ""


def _chosen(
    recipe: Recipe, until: str | None, only: str | None, fresh: tuple[str, ...]
) -> tuple[list[str], tuple[str, ...]]:
    """The stages to look at and those of them to make afresh, each in place of a loop that has it."""
    if until and only:
        raise RecipeError("--until and --only exclude each other: --until also runs what its stage needs")
    known = [*recipe.stages, *recipe.loops]
    for option, names in (("until", (until,)), ("only", (only,)), ("fresh", fresh)):
        for name in names:
            if name and name not in known:
                raise RecipeError(f"--{option}: no stage is called {name!r}.{suggestion(name, known)}")
    chosen = _stages(recipe, only) if only else _upstream(recipe, until) if until else list(recipe.stages)
    anew = [stage for name in fresh for stage in _stages(recipe, name)]
    for name in anew:
        if name not in chosen:
            raise RecipeError(f"--fresh {name}: the stage is not among those to run ({', '.join(chosen)})")
    return chosen, tuple(anew)


def _stages(recipe: Recipe, name: str) -> list[str]:
    """A stage, or all stages of a loop."""
    return list(recipe.loops[name].stages) if name in recipe.loops else [name]


class _Afresh(NamedTuple):
    """Why a stage is made although its artifact is there, and whether from the start."""

    why: str
    restart: bool = True


def _afresh(graph: Plan, store: Store, chosen: Iterable[str], fresh: tuple[str, ...]) -> dict[str, _Afresh]:
    """The stages to make afresh: those asked for, those that an earlier run left to be so, and all made from these."""
    asked, made = {graph.keys[name].value for name in fresh}, dict[str, _Afresh]()
    by_key: dict[str, str] = {}
    for name in chosen:
        key = graph.keys[name].value
        parents = [i for i in graph.needs(name) if graph.keys[i].value in by_key]
        if key in by_key:
            made[name] = _Afresh(f"is the same as {by_key[key]!r}, which is made afresh", restart=False)
        elif key in asked:
            made[name] = _Afresh("asked for afresh")
        elif parents:
            made[name] = _Afresh(f"its input {parents[0]!r} is made afresh")
        elif store.superseded(key):
            made[name] = _Afresh("is to be made afresh since an earlier run", restart=False)
        else:
            continue
        by_key.setdefault(key, name)
    return made


def _outdated(graph: Plan, store: Store, chosen: Iterable[str], stage: str) -> Iterator[str]:
    """The stages that are not chosen and whose artifact was made from a stage's."""
    for name in graph.recipe.stages:
        if name not in chosen and stage in _upstream(graph.recipe, name) and store.find(graph.keys[name].value):
            yield name


def _upstream(recipe: Recipe, name: str) -> list[str]:
    """A stage or loop and all that it needs, in the recipe's order."""
    wanted = set(_stages(recipe, name))
    for stage in reversed(recipe.stages):
        if stage in wanted:
            wanted.update(_needs(recipe, stage))
    return [stage for stage in recipe.stages if stage in wanted]


def _needs(recipe: Recipe, stage: str, meaning: Callable[[str], str] = str) -> list[str]:
    """The stages whose results a stage takes; of a loop that is open, all. A later round needs the gate before it."""
    names: list[str] = []
    for taken in map(meaning, recipe.inputs(stage).values()):
        loop = recipe.loop_of(taken)
        names += loop.stages if loop else [taken]
    names += [gate for loop in recipe.loops.values() if (gate := loop.gate_before(stage))]
    return [name for name in dict.fromkeys(names) if name in recipe.stages]


def _step(
    graph: Plan, name: str, store: Store, last: dict[str, Any] | None, afresh: _Afresh | None,
    missing: list[str], outdated: tuple[str, ...],
) -> Step:  # fmt: skip
    stage, key, stopped = graph.recipe.stages[name], graph.keys[name], graph.stopped(name)
    found = None if afresh else store.find(key.value)
    names = graph.recipe.inputs(name)
    changed = tuple(_differences(last["parts"], key.parts, names)) if last and last["key"] != key.value else ()
    warning = ""
    if found and found.manifest.get("code") != code_of(stage):
        warning = f"its code changed under the same version {stage.version}: raise `version`, or use --fresh {name}"
    if outdated:
        names = ", ".join(map(repr, outdated))
        warning = f"it is made afresh, which outdates {names}: the next run that asks for them makes them afresh, too"
    if stopped:
        state, why, found = "skipped", stopped, None
    elif found:
        state, why = "cached", f"made {str(found.manifest['finished'])[:16].replace('T', ' ')}"
    elif key.provisional:
        state, why = "blocked", key.provisional
    elif missing:
        state, why = "blocked", f"needs {', '.join(map(repr, missing))}, which is yet to be made"
    elif key.awaits:
        state, why, changed = "pending", f"awaits what the loop {key.awaits!r} decides on", ()
    else:
        state, why = "run", afresh.why if afresh else _why(store, key, last, changed)
    restart = afresh is not None and afresh.restart
    return Step(name, stage.name, stage.makes, key.value, state, why, changed, warning, found, restart, outdated)


def _why(store: Store, key: Key, last: dict[str, Any] | None, changed: tuple[str, ...]) -> str:
    if (store.work(key.value) / "events.jsonl").exists():  # a check may leave a log there, but no events
        return "was begun and not finished; goes on"
    if changed:
        return "changed: " + ", ".join(changed)
    if lost := store.lost(key.value):
        return f"was made, but {', '.join(lost[:3])}{' ...' if len(lost) > 3 else ''} is missing or damaged"
    return "not finished in the last run" if last else "never run"


def _differences(old: dict[str, Any], new: dict[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    """What differs between the parts of two keys; inputs, which are hashes, are only named, by what they refer to."""
    for name in ("stage", "version", "seed"):
        yield from _leaves(old[name], new[name], name)
    yield from _leaves(old["fields"], new["fields"])
    before, after = old["inputs"], new["inputs"]
    differ = [names.get(at, at) for at in {**before, **after} if before.get(at) != after.get(at)]
    yield from (f"input {name}" for name in dict.fromkeys(differ))


def _leaves(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            yield from _leaves(old.get(name), new.get(name), f"{path}.{name}" if path else name)
    elif old != new:
        yield f"{path}: {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    text = "default" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
