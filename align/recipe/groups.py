"""What can be wrong with a group before it is unrolled: its names, what it begins with and hands on, its gate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from align.errors import suggestion
from align.problems import a
from align.recipe.loops import GATE, Group, results_of
from align.source import Place, Source, place_of
from align.stage import Reference, Stage
from align.stages.loop_gate import Limit

Kinds = Mapping[str, str | None]
"""What each name is: a kind of artifact, `model`, `dataset` ...; None where that is not known."""

NAME = re.compile(r"[A-Za-z][\w-]*")

SAME = {"model": "policy", "dataset": "records", "endpoint": "endpoint"}
"""What an entry from outside can stand in for."""


@dataclass(frozen=True)
class Draft:
    """A group as the file has it; its parts that were wrong are left out, and noted already."""

    name: str
    group: Group
    stages: dict[str, Stage]
    """By the names within the group."""
    source: Source

    @property
    def place(self) -> Place:
        return ("stages", self.name)

    @property
    def locals(self) -> Kinds:
        """What each name under `start` and each stage is; some of them may be wrong."""
        said = self.source.at((*self.place, "start"))
        begun = dict.fromkeys(said if isinstance(said, dict) else ())
        return begun | dict.fromkeys(self.group.stages) | {inner: stage.makes for inner, stage in self.stages.items()}

    def kinds(self, outside: Kinds) -> Kinds:
        """What each name means to the stages of the group."""
        bound = {local: outside.get(reference.name) for local, reference in self.group.start.items()}
        return {**outside, **self.locals, **bound}

    def owns(self, name: str) -> bool:
        """Whether a name is one of the group's own, as it or the unrolled loop has it."""
        return name in self.locals or name.startswith(f"{self.name}@")

    def results(self) -> dict[str, str | None]:
        """The kind of what each name under `next` hands on."""
        made = {local: self.stages.get(reference.name) for local, reference in self.group.next.items()}
        return {local: stage.makes if stage else None for local, stage in made.items()}

    def kinds_outside(self) -> Kinds:
        """What `$group`, and `$group.name`, stand for."""
        if not self.group.next:
            return {self.name: None}
        return {result: self.results()[local] for result, local in results_of(self.name, self.group)}

    def references(self) -> Iterator[tuple[Place, Reference]]:
        """(place, reference) of all that the group takes, from outside or from its own."""
        for local, reference in self.group.start.items():
            yield (*self.place, "start", local), reference
        for inner, stage in self.stages.items():
            for where, reference in stage.references():
                yield (*self.place, "stages", inner, *place_of(where)), reference

    def check(self, outside: Kinds) -> None:
        """Notes what is wrong with the names, `next` and `gate`."""
        self._check_names(outside)
        self._check_next(outside)
        self._check_gate()

    def unused(self) -> Iterator[Place]:
        """The names under `start` that nothing in the group refers to."""
        used = {reference.name for stage in self.stages.values() for _, reference in stage.references()}
        yield from ((*self.place, "start", local) for local in self.group.start if local not in used)

    def _check_names(self, outside: Kinds) -> None:
        for section, names in (("start", self.group.start), ("stages", self.group.stages)):
            for name in names:
                if not NAME.fullmatch(name):
                    self.source.add((*self.place, section, name), no_name(name))
                elif name in outside or (section == "stages" and name in self.group.start):
                    what = f"{name!r} is taken already; `${name}` must mean one thing"
                    self.source.add((*self.place, section, name), what)
        if GATE in self.group.stages:
            what = f"{GATE!r} is what the loop's own gate is called; choose another name"
            self.source.add((*self.place, "stages", GATE), what)

    def _check_next(self, outside: Kinds) -> None:
        for local, reference in self.group.next.items():
            here = (*self.place, "next", local)
            if local not in self.group.start:
                near = suggestion(local, self.group.start)
                self.source.add(here, f"`start` has no {local!r} that it could follow.{near}")
            if reference.name not in self.group.stages:
                what = f"no stage of this group is called {reference.name!r}, and only what a round makes goes on."
                self.source.add(here, what + suggestion(reference.name, self.group.stages))
                continue
            begun = self.group.start.get(local)
            before, after = outside.get(begun.name) if begun else None, self.results()[local]
            if before and after and SAME.get(before, before) != after:
                what = f"{local!r} begins as {begun}, {a(before)}, but {reference.name!r} makes {a(after)}"
                self.source.add(here, what)

    def _check_gate(self) -> None:
        if self.group.gate and self.group.next and not {"policy", None} & set(self.results().values()):
            self.source.add((*self.place, "gate"), "a gate compares policies, but `next` hands on none")
        raw = self.source.at((*self.place, "gate"))
        for number, limit in enumerate(self.group.gate):
            self._check_limit((*self.place, "gate", *((number,) if isinstance(raw, list) else ())), limit)

    def _check_limit(self, here: Place, limit: Limit) -> None:
        reports = [inner for inner, stage in self.stages.items() if stage.makes == "report"]
        if limit.report is None and len(reports) != 1:
            found = f"there are {', '.join(reports)}: say `report: ${reports[0]}`" if reports else "there is none"
            self.source.add(here, f"which report has {limit.metric!r}? Of the group's stages that make one {found}")
            return
        name = limit.report.name if limit.report else reports[0]
        if name not in reports:
            what = f"no stage of this group that makes a report is called {name!r}.{suggestion(name, reports)}"
            self.source.add((*here, "report"), what)
            return
        compared = {reference.name for _, reference in self.stages[name].references()}
        for local in [local for local, kind in self.results().items() if kind == "policy"][:1]:
            both = (f"${local}", str(self.group.next[local]))
            if not {both[0][1:], both[1][1:]} <= compared:
                what = f"{name!r} must compare {both[1]} with {both[0]}, which it was made from, to be read by the gate"
                self.source.add((*here, "report"), what)
        known = self.stages[name].measures()
        if known is not None and not any(fnmatchcase(limit.metric, name) for name in known):
            what = f"{name!r} measures no {limit.metric!r}.{suggestion(limit.metric, known)}"
            self.source.add((*here, "metric"), what)


def is_group(fields: Mapping[str, Any]) -> bool:
    """Whether an entry of `stages:` is a group. A stage may have a field called `rounds`."""
    return "stages" in fields or ("stage" not in fields and bool(Group.model_fields.keys() & fields.keys()))


def no_name(name: str) -> str:
    return f"{name!r} cannot be a name; use letters, digits, '_' and '-'"


def right_parts(fields: Mapping[str, Any]) -> Group:
    """An unchecked group with those of its parts that are right alone, so that they can be looked at."""

    def block(section: str) -> Mapping[str, Any]:
        return found if isinstance(found := fields.get(section), Mapping) else {}

    def references(section: str) -> dict[str, Reference]:
        named = {local: value for local, value in block(section).items() if isinstance(value, str)}
        return {local: Reference(value[1:]) for local, value in named.items() if value.startswith("$")}

    stages = {inner: value for inner, value in block("stages").items() if isinstance(value, dict)}
    return Group.model_construct(rounds=1, start=references("start"), stages=stages, next=references("next"))
