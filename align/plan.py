"""What a run would do: which stages are there already, which will run, and what changed since the last run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from align.errors import RecipeError, suggestion
from align.recipe import Key, Recipe
from align.recipe.keys import blocks
from align.registry import file_of
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
    state: Literal["cached", "run", "blocked"]
    why: str
    changed: tuple[str, ...] = ()
    """What makes its key differ from the last run's, such as `beta: 0.1 -> 0.2`."""
    warning: str = ""
    artifact: Artifact | None = None
    fresh: bool = False
    """Whether it is made from the start, though its artifact or what a killed run left of it is there."""


@dataclass(frozen=True)
class Plan:
    """The stages that were asked for, each after its inputs."""

    recipe: Recipe
    keys: Mapping[str, Key]
    """Of every stage and outside input of the recipe."""
    steps: tuple[Step, ...]

    @property
    def to_run(self) -> list[Step]:
        return [step for step in self.steps if step.state != "cached"]


def plan(
    recipe: Recipe, store: Store, *, until: str | None = None, only: str | None = None, fresh: Iterable[str] = ()
) -> Plan:
    """What `run` with the same arguments would do.

    `until` asks for one stage and all that it needs, `only` for one stage from inputs that are there; `fresh` stages
    run although their artifact is there, and so do those that were made from it.
    """
    fresh = tuple(fresh)
    chosen = list(_chosen(recipe, until, only, fresh))
    keys, last = recipe.keys(store.hash_of), store.last(recipe.name)
    afresh = _afresh(recipe, keys, store, chosen, fresh)
    steps: list[Step] = []
    for name in chosen:
        missing = [i for i in _inputs(recipe, name) if i not in chosen and store.find(keys[i].value) is None]
        left = [n for n in _outdated(recipe, keys, store, chosen, name) if name in afresh]
        stage, before = recipe.stages[name], last.get(name)
        steps.append(_step(stage, name, keys[name], store, before, afresh.get(name), missing, left))
    return Plan(recipe, keys, tuple(steps))


def code_of(stage: Stage) -> str:
    """Hash of the files that define a stage and the rules that it scores by; empty where there are none."""
    rules = [REWARDS[b.rule].function for b in blocks(stage) if isinstance(b, RewardSpec) and b.rule in REWARDS.names()]
    files = dict.fromkeys(file for thing in (type(stage), *rules) if (file := file_of(thing)))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16] if files else ""


def _chosen(recipe: Recipe, until: str | None, only: str | None, fresh: tuple[str, ...]) -> Iterable[str]:
    if until and only:
        raise RecipeError("--until and --only exclude each other: --until also runs what its stage needs")
    for option, names in (("until", (until,)), ("only", (only,)), ("fresh", fresh)):
        for name in names:
            if name and name not in recipe.stages:
                raise RecipeError(f"--{option}: no stage is called {name!r}.{suggestion(name, recipe.stages)}")
    chosen = [only] if only else _upstream(recipe, until) if until else list(recipe.stages)
    for name in fresh:
        if name not in chosen:
            raise RecipeError(f"--fresh {name}: the stage is not among those to run ({', '.join(chosen)})")
    return chosen


class _Afresh(NamedTuple):
    """Why a stage is made although its artifact is there, and whether from the start."""

    why: str
    restart: bool = True


def _afresh(
    recipe: Recipe, keys: Mapping[str, Key], store: Store, chosen: Iterable[str], fresh: tuple[str, ...]
) -> dict[str, _Afresh]:
    """The stages to make afresh: those asked for, those that a stopped run was asked for, and all made from these."""
    asked, made = {keys[name].value for name in fresh}, dict[str, _Afresh]()
    by_key: dict[str, str] = {}
    for name in chosen:
        key = keys[name].value
        parents = [i for i in _inputs(recipe, name) if keys[i].value in by_key]
        if key in by_key:
            made[name] = _Afresh(f"is the same as {by_key[key]!r}, which is made afresh", restart=False)
        elif key in asked:
            made[name] = _Afresh("asked for afresh")
        elif parents:
            made[name] = _Afresh(f"its input {parents[0]!r} is made afresh")
        elif store.superseded(key):
            made[name] = _Afresh("was to be made afresh and is not finished; goes on", restart=False)
        else:
            continue
        by_key.setdefault(key, name)
    return made


def _outdated(
    recipe: Recipe, keys: Mapping[str, Key], store: Store, chosen: Iterable[str], stage: str
) -> Iterator[str]:
    """The stages that are not chosen and whose artifact was made from a stage's."""
    for name in recipe.stages:
        if name not in chosen and stage in _upstream(recipe, name) and store.find(keys[name].value):
            yield name


def _upstream(recipe: Recipe, stage: str) -> list[str]:
    """A stage and all that it needs, in the recipe's order."""
    wanted = {stage}
    for name in reversed(recipe.stages):
        if name in wanted:
            wanted.update(_inputs(recipe, name))
    return [name for name in recipe.stages if name in wanted]


def _step(
    stage: Stage, name: str, key: Key, store: Store, last: dict[str, Any] | None, afresh: _Afresh | None,
    missing: list[str], left: list[str],
) -> Step:  # fmt: skip
    found = None if afresh else store.find(key.value)
    changed = tuple(_differences(last["parts"], key.parts)) if last and last["key"] != key.value else ()
    warning = ""
    if found and found.manifest.get("code") != code_of(stage):
        warning = f"its code changed under the same version {stage.version}: raise `version`, or use --fresh {name}"
    if left:
        names = ", ".join(map(repr, left))
        warning = f"it is made afresh, but not what was made from it: {names}. Use --fresh {left[0]} afterwards"
    if found:
        state, why = "cached", f"made {found.manifest['finished']}"
    elif key.provisional:
        state, why = "blocked", key.provisional
    elif missing:
        state, why = "blocked", f"needs {', '.join(map(repr, missing))}, which is yet to be made"
    else:
        state, why = "run", afresh.why if afresh else _why(store, key, last, changed)
    restart = afresh is not None and afresh.restart
    return Step(name, stage.name, stage.makes, key.value, state, why, changed, warning, found, restart)


def _why(store: Store, key: Key, last: dict[str, Any] | None, changed: tuple[str, ...]) -> str:
    if (store.work(key.value) / "events.jsonl").exists():  # a check may leave a log there, but no events
        return "was begun and not finished; goes on"
    if changed:
        return "changed: " + ", ".join(changed)
    return "not finished in the last run" if last else "never run"


def _inputs(recipe: Recipe, stage: str) -> list[str]:
    """The stages whose results a stage takes."""
    return [name for name in dict.fromkeys(recipe.inputs(stage).values()) if name in recipe.stages]


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """What differs between the parts of two keys; inputs, which are hashes, are only named."""
    for name in ("stage", "version", "seed"):
        yield from _leaves(old[name], new[name], name)
    yield from _leaves(old["fields"], new["fields"])
    before, after = old["inputs"], new["inputs"]
    yield from (f"input {at}" for at in {**before, **after} if before.get(at) != after.get(at))


def _leaves(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            yield from _leaves(old.get(name), new.get(name), f"{path}.{name}" if path else name)
    elif old != new:
        yield f"{path}: {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    text = "default" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
