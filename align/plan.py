"""What a run would do: which stages are there already, which will run, and what changed since the last run."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from align.errors import RecipeError, suggestion
from align.recipe import Key, Recipe
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
    """Whether the artifact of this key and what a killed run left of it are to be forgotten first."""


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
    run although their artifact is there.
    """
    fresh = tuple(fresh)
    chosen = list(_chosen(recipe, until, only, fresh))
    keys, last = recipe.keys(store.hash_of), store.last(recipe.name)
    steps: dict[str, Step] = {}
    for name in chosen:
        missing = [i for i in _inputs(recipe, name) if i not in chosen and store.find(keys[i].value) is None]
        steps[name] = _step(recipe.stages[name], name, keys[name], store, last.get(name), name in fresh, missing)
    return Plan(recipe, keys, tuple(steps.values()))


def code_of(stage: type[Stage]) -> str:
    """Hash of the file that defines a stage; empty where there is no file."""
    file = getattr(sys.modules.get(stage.__module__), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file and Path(file).is_file() else ""


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


def _upstream(recipe: Recipe, stage: str) -> list[str]:
    """A stage and all that it needs, in the recipe's order."""
    wanted = {stage}
    for name in reversed(recipe.stages):
        if name in wanted:
            wanted.update(_inputs(recipe, name))
    return [name for name in recipe.stages if name in wanted]


def _step(
    stage: Stage, name: str, key: Key, store: Store, last: dict[str, Any] | None, fresh: bool, missing: list[str]
) -> Step:
    found = None if fresh else store.find(key.value)
    changed = tuple(_differences(last["parts"], key.parts)) if last and last["key"] != key.value else ()
    warning = ""
    if found and found.manifest.get("code") != code_of(type(stage)):
        warning = f"its code changed under the same version {stage.version}: raise `version`, or use --fresh {name}"
    if found:
        state, why = "cached", f"made {found.manifest['finished']}"
    elif key.provisional:
        state, why = "blocked", key.provisional
    elif missing:
        state, why = "blocked", f"needs {', '.join(map(repr, missing))}, which is yet to be made"
    else:
        state, why = "run", _why(store, key, last, fresh, changed)
    return Step(name, stage.name, stage.makes, key.value, state, why, changed, warning, found, fresh)


def _why(store: Store, key: Key, last: dict[str, Any] | None, fresh: bool, changed: tuple[str, ...]) -> str:
    if fresh:
        return "asked for afresh"
    if store.work(key.value).exists():
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
