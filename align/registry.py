"""Names to things: what a recipe may write after `stage:`, `format:` or `reward:`.

A `Registry` knows its built-ins as `name -> "module:attribute"` and imports one only when it is asked for, so that
listing names is free. Installed packages add entries under an entry point group of the same name; `plugins:` of a
recipe add theirs (`align.plugins`), until the next recipe.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from align.errors import RecipeError, suggestion
from align.stage import Stage

T = TypeVar("T")
_registries: list[Registry] = []
_loading = False


@functools.cache
def installed() -> EntryPoints:
    """What installed packages add to any group, read once: each package has a file of it."""
    return entry_points()  # type: ignore[return-value] - Python 3.11's own class selects just as well


class Registry(Generic[T]):
    """One kind of named things. `noun` is for messages, `group` names the entry points."""

    def __init__(self, noun: str, group: str, builtin: dict[str, str]):
        self.noun, self.group, self.builtin = noun, group, builtin
        self.code: dict[str, T] = {}
        self.plugins: dict[str, T] = {}
        _registries.append(self)

    def names(self) -> list[str]:
        """All names, sorted; imports nothing."""
        return sorted({*self.builtin, *self.code, *self.plugins, *installed().select(group=self.group).names})

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def __getitem__(self, name: str) -> T:
        for known in (self.plugins, self.code):
            if name in known:
                return known[name]
        if name in self.builtin:
            module, _, attribute = self.builtin[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        for entry in installed().select(group=self.group, name=name):
            return entry.load()
        raise RecipeError(f"no {self.noun} is called {name!r}.{suggestion(name, self.names())}")

    def add(self, name: str, thing: T, function: Callable[..., Any] | None = None) -> T:
        """Registers under a name that must be new; while a plugin file is being loaded, for that recipe only.

        function: what the thing is made of, which a built-in's own module decorates, too: that is no second one.
        """
        if function and self.builtin.get(name) == f"{function.__module__}:{function.__name__}":
            return thing
        if name in self:
            raise RecipeError(f"a {self.noun} called {name!r} exists already; choose another name")
        (self.plugins if _loading else self.code)[name] = thing
        return thing


STAGES: Registry[type[Stage]] = Registry(
    "stage",
    "align.stages",
    {
        "pretrain": "align.stages.pretrain:Pretrain",
        "sft": "align.stages.sft:SFT",
        "reward_model": "align.stages.reward_model:RewardModel",
        "dpo": "align.stages.dpo:DPO",
        "ppo": "align.stages.ppo:PPO",
        "sample": "align.stages.sample:SampleReplies",
        "prefer": "align.stages.prefer:Prefer",
        "critique_revise": "align.stages.critique_revise:CritiqueRevise",
        "ai_feedback": "align.stages.ai_feedback:AIFeedback",
        "reward_bench": "align.stages.reward_bench:RewardBench",
        "gate": "align.stages.reward_bench:Gate",
        "compare": "align.stages.compare:Compare",
        "loop_gate": "align.stages.loop_gate:LoopGate",
        "merge": "align.stages.merge:Merge",
        "trl": "align.stages.trl:TRL",
    },
)


def stage(name: str) -> type[Stage]:
    """The stage class that recipes call `name`."""
    return STAGES[name]


def stages() -> dict[str, type[Stage]]:
    """Every registered stage by name."""
    return {name: stage(name) for name in STAGES.names()}


@contextlib.contextmanager
def loading_plugin() -> Iterator[None]:
    """What is added meanwhile is taken back by `forget`."""
    global _loading
    _loading = True
    try:
        yield
    finally:
        _loading = False


def forget() -> None:
    """Takes back every name that a plugin has added."""
    for registry in _registries:
        registry.plugins.clear()


def file_of(thing: object) -> Path | None:
    """The file that defines a class or function."""
    file = getattr(sys.modules.get(thing.__module__), "__file__", None)
    return Path(file) if file and Path(file).is_file() else None


def bundled(folder: str) -> Path:
    """Where the package's `recipes` or `reward_models` lie: inside the installed wheel, or in the checkout."""
    package = Path(__file__).parent
    inside = package / f"_{folder}"
    return inside if inside.is_dir() else package.parent / folder
