"""From a recipe's file to a checked graph of stages: everything that is wrong with it is said at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError

from align.config import Config, Data, Endpoint, Model
from align.errors import AlignError, Problem, RecipeError, suggestion
from align.plugins import forget_plugins, load_plugin
from align.problems import a, problems
from align.recipe import keys, lookup, outside
from align.recipe.groups import NAME, SAME, Draft, Kinds, is_group, no_name, right_parts
from align.recipe.loops import Find, Group, Loop, unrolled
from align.registry import STAGES
from align.source import Place, Source, place_of, read
from align.stage import Reference, Stage

Entry = Stage | Draft

SHAPE = "a recipe is a mapping with `models:`, `data:` and `stages:`"


def _shape(entry: Any) -> str:
    return "endpoint" if isinstance(entry, Endpoint) or (isinstance(entry, dict) and "endpoint" in entry) else "model"


ModelEntry = Annotated[Annotated[Model, Tag("model")] | Annotated[Endpoint, Tag("endpoint")], Discriminator(_shape)]


class Header(Config):
    """A recipe: a graph of stages over models and datasets."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][\w.-]*$")
    """Names the folder of results, `runs/<name>`; none means the file's name."""
    seed: int = Field(0, ge=0)
    """Every random choice follows from it."""
    models: dict[str, ModelEntry] = Field(default_factory=dict)
    """Checkpoints from outside and models behind servers, by the name that `$name` refers to."""
    data: dict[str, Data] = Field(default_factory=dict)
    """Datasets from outside, by the name that `$name` refers to."""
    plugins: tuple[str, ...] = ()
    """Python files with stages of one's own, relative to the recipe."""
    stages: dict[str, dict[str, Any]]
    """The steps, by the name that `$name` refers to; their order follows from the references. One with `rounds` is a
    group of steps that run several times (`align stages loop`)."""


@dataclass(frozen=True)
class Recipe:
    """A recipe that was found right: names are known, kinds fit, there is no cycle."""

    name: str
    seed: int
    file: Path
    """Absolute; its folder is where relative paths start."""
    models: dict[str, Model | Endpoint]
    """By name; those on the hub at a commit, unless nobody could say which."""
    data: dict[str, Data]
    """Likewise."""
    plugins: tuple[Path, ...]
    stages: dict[str, Stage]
    """By name, each after those it refers to, else in the order of the file."""
    source: Source = field(repr=False)
    """Text and lines, overrides included."""
    loops: dict[str, Loop] = field(default_factory=dict)
    """The groups with `rounds`, whose stages are among the others."""
    warnings: tuple[Problem, ...] = ()
    smoke: bool = False
    """Models and datasets are to be replaced by tiny ones of the same shape; keys say so."""

    @property
    def base(self) -> Path:
        return self.file.parent

    @property
    def text(self) -> str:
        return self.source.text

    def inputs(self, stage: str) -> dict[str, str]:
        """What each reference of a stage names: `policy` or `data.0` -> the name of a stage, model or dataset."""
        return {path: reference.name for path, reference in self.stages[stage].references()}

    def loop_of(self, name: str) -> Loop | None:
        """The loop that decides what a name means, such as `cai` or `cai.reward`; None for all other names."""
        loop = self.loops.get(name.partition(".")[0])
        return loop if loop and name in loop.results else None

    def keys(self, hash_of: Callable[[Path], str], find: Find = lambda key: None) -> dict[str, keys.Key]:
        """The content key of every stage, outside input and result of a loop, by name.

        `hash_of` names a file or folder by content; `find` finds the gates by which loops are decided.
        """
        return keys.keys(self, hash_of, find)

    def problem(self, where: str, what: str) -> Problem:
        """A problem with one of the recipe's keys, such as `stages.dpo.beta`, with its file and line."""
        return self.source.problem(place_of(where), what)


def load(recipe: Path | str, overrides: Iterable[str] = (), smoke: bool = False) -> Recipe:
    """The recipe at a path or of a name. Raises RecipeError with every problem there is, in the order of the file."""
    source = read(lookup.find(recipe), SHAPE)
    for override in overrides:
        source.override(override, tuple(Header.model_fields))
    return _Loading(source, smoke).recipe()


class _Loading:
    """Collects the problems of one recipe on the way to a Recipe."""

    def __init__(self, source: Source, smoke: bool):
        self.source, self.smoke, self.hub = source, smoke, outside.Hub()
        self.base = source.file.resolve().parent
        self.kinds: dict[str, str | None] = {}
        """What each name of the recipe is: a kind of artifact, `model`, `endpoint` or `dataset`; None: not known."""
        self.lost_plugin = False
        """Whether a plugin could not be loaded, which may have had what seems unknown."""

    def recipe(self) -> Recipe:
        header = self._header()
        plugins = tuple((self.base / file).resolve() for file in header.plugins)
        self._plugins(plugins)
        self._names()
        entries = dict(self._entries())
        self._check_references(entries)
        order = self._order({name: _needs(entry) for name, entry in entries.items()})
        models = outside.mapped(header.models, self._settled, ("models",))
        data = outside.mapped(header.data, self._settled, ("data",))
        entries = {name: self._whole(name, entries[name]) for name in order}
        self.source.raise_problems()
        stages, loops = self._unrolled(entries)
        self.source.raise_problems()
        file = self.source.file.resolve()
        named = header.name or (file.parent.name if file.stem == "recipe" else file.stem)
        return Recipe(
            name=f"{named}-smoke" if self.smoke else named,
            seed=header.seed,
            file=file,
            models=models,
            data=data,
            plugins=plugins,
            stages=stages,
            source=self.source,
            loops=loops,
            warnings=tuple(self._unused(entries)),
            smoke=self.smoke,
        )

    def _header(self) -> Header:
        """The recipe without its stages' fields; entries that are wrong are noted and left out."""
        values = {name: value for name, value in self.source.values.items() if value is not None}
        try:
            return Header.model_validate(values)
        except ValidationError as error:
            wrong = {path: what for path, what in problems(error, Header, values)}
        for path, what in wrong.items():
            self.source.add(path, what)
        good: dict[str, Any] = {"stages": {}}
        for section, value in values.items():
            if isinstance(value, dict) and (section,) not in wrong:
                good[section] = {name: entry for name, entry in value.items() if not _touches((section, name), wrong)}
            elif not _touches((section,), wrong):
                good[section] = value
        return Header.model_validate(good)

    def _plugins(self, files: tuple[Path, ...]) -> None:
        forget_plugins()
        for i, file in enumerate(files):
            try:
                load_plugin(file)
            except RecipeError as error:
                self.source.add(("plugins", i), str(error))
                self.lost_plugin = True

    def _names(self) -> None:
        """Stages, models and datasets share one space of names, that of `$name`."""
        for section, kind in (("models", "model"), ("data", "dataset"), ("stages", None)):
            entries = self.source.at((section,))
            for name in entries if isinstance(entries, dict) else ():
                if not NAME.fullmatch(name) or name in Header.model_fields:
                    self.source.add((section, name), no_name(name))
                elif name in self.kinds:
                    self.source.add((section, name), f"{name!r} is taken already; `${name}` must mean one thing")
                self.kinds.setdefault(name, _shape(entries[name]) if kind == "model" else kind)

    def _entries(self) -> Iterator[tuple[str, Entry]]:
        """Every stage and group that can be told to be one, with what is right of it."""
        entries = self.source.at(("stages",))
        if entries == {}:
            self.source.add(("stages",), "a recipe needs at least one stage")
        for name, fields in entries.items() if isinstance(entries, dict) else ():
            if isinstance(fields, dict) and is_group(fields):
                entry = self._group(name, fields)
                self.kinds |= entry.kinds_outside()
                yield name, entry
            elif isinstance(fields, dict) and (stage := self._stage(("stages", name), fields)):
                self.kinds[name] = stage.makes
                yield name, stage

    def _group(self, name: str, fields: dict[str, Any]) -> Draft:
        place: Place = ("stages", name)
        try:
            group = Group.model_validate(fields)
        except ValidationError as error:
            for below, what in problems(error, Group, fields):
                self.source.add((*place, *below), what)
            group = right_parts(fields)
        stages = {}
        for inner, block in group.stages.items():
            if is_group(block):
                self.source.add((*place, "stages", inner), "a group stands by itself, not within another")
            elif stage := self._stage((*place, "stages", inner), block):
                stages[inner] = stage
        return Draft(name, group, stages, self.source)

    def _stage(self, place: Place, fields: dict[str, Any]) -> Stage | None:
        """The stage of a block; where something is wrong, that is noted and the stage has only what is right."""
        kind = fields.get("stage")
        if kind is None:
            self.source.add(place, f"`stage:` is missing. There are: {', '.join(STAGES.names())}")
        elif kind not in STAGES and not self.lost_plugin:
            self.source.add((*place, "stage"), f"no stage is called {kind!r}.{suggestion(str(kind), STAGES.names())}")
        elif kind in STAGES:
            return self._right(place, STAGES[kind], {key: value for key, value in fields.items() if key != "stage"})
        return None

    def _right(self, place: Place, cls: type[Stage], fields: dict[str, Any], note: str = "") -> Stage:
        try:
            return cls.model_validate(fields, context={"base": self.base})
        except ValidationError as error:
            for below, what in problems(error, cls, fields):
                self.source.add((*place, *below), note + what)
        return _what_is_right(cls, fields)

    def _check_references(self, entries: dict[str, Entry]) -> None:
        plain = {name: entry for name, entry in entries.items() if isinstance(entry, Stage)}
        for name, entry in entries.items():
            if isinstance(entry, Draft):
                entry.check(self.kinds)
                within = entry.kinds(self.kinds)
                for place, reference in entry.references():
                    self._check_reference(place, reference, within, entries)
                begun = entry.group.start.items()
                bound = {local: plain[reference.name] for local, reference in begun if reference.name in plain}
                known = plain | bound | entry.stages
                for inner, stage in entry.stages.items():
                    self._doubts(("stages", name, "stages", inner), stage, known)
            else:
                self._doubts(("stages", name), entry, plain)
                for where, reference in entry.references():
                    self._check_reference(("stages", name, *place_of(where)), reference, self.kinds, entries)

    def _doubts(self, place: Place, stage: Stage, made_by: Mapping[str, Stage]) -> None:
        for where, what in stage.doubts(made_by):
            self.source.add((*place, *place_of(where)), what)

    def _check_reference(self, here: Place, reference: Reference, kinds: Kinds, entries: dict[str, Entry]) -> None:
        if reference.name not in kinds:
            groups = [e for e in entries.values() if isinstance(e, Draft) and e.owns(reference.name)]
            what = f"no stage, model or dataset is called {reference.name!r}.{suggestion(reference.name, kinds)}"
            if groups:
                what = f"{reference} is for the stages of the group {groups[0].name!r}. Did you mean ${groups[0].name}?"
            self.source.add(here, what)
            return
        kind = kinds[reference.name]
        if kind is not None and SAME.get(kind, kind) not in reference.kinds:
            needs = " or ".join(map(a, reference.kinds))
            is_ = f"is {a(kind)}" if kind in SAME else f"makes {a(kind)}"
            outside = (kind, needs) == ("model", "a reward")
            right = "; one from outside is a block, {model: {path: ...}}" if outside else ""
            self.source.add(here, f"needs {needs}, but {reference.name!r} {is_}{right}")

    def _order(self, needs: dict[str, list[str]], place: Place = ("stages",)) -> list[str]:
        """Names so that each comes after what it needs; a cycle is noted. place: where the names stand."""
        order: list[str] = []

        def visit(name: str, open_: tuple[str, ...]) -> None:
            if name in order or name not in needs:
                return
            if name in open_:
                cycle = " -> ".join((*open_[open_.index(name) :], name))
                self.source.add((*place, name), f"needs its own result: {cycle}")
                order.append(name)
                return
            for other in needs[name]:
                visit(other, (*open_, name))
            if name not in order:
                order.append(name)

        for name in needs:
            visit(name, ())
        return order

    def _whole(self, name: str, entry: Entry) -> Entry:
        """The entry with what it takes from outside settled, and a group's own stages in order."""
        if isinstance(entry, Stage):
            return outside.mapped(entry, self._settled, ("stages", name))
        place: Place = ("stages", name, "stages")
        order = self._order({inner: _needs(stage) for inner, stage in entry.stages.items()}, place)
        stages = {inner: outside.mapped(entry.stages[inner], self._settled, (*place, inner)) for inner in order}
        return replace(entry, stages=stages)

    def _unrolled(self, entries: dict[str, Entry]) -> tuple[dict[str, Stage], dict[str, Loop]]:
        stages: dict[str, Stage] = {}
        loops: dict[str, Loop] = {}
        for name, entry in entries.items():
            if isinstance(entry, Stage):
                stages[name] = entry
                continue
            loops[name], made = unrolled(name, entry.group, entry.stages)
            stages |= made
            for number, names in enumerate(loops[name].rounds, 1):
                for inner, unchecked in zip(entry.stages, names, strict=False):
                    fields = made[unchecked].model_dump(mode="json", by_alias=True)
                    place = ("stages", name, "stages", inner)
                    self._right(place, type(made[unchecked]), fields, f"in round {number}: ")
        return stages, loops

    def _settled(self, place: Place, leaf: Path | Model | Endpoint | Data) -> Path | Model | Endpoint | Data:
        """A file or an entry from outside, found to be there; on the hub, at a commit. Servers are not asked."""
        try:
            if isinstance(leaf, Path):
                if not outside.under(self.base, leaf).exists():
                    self.source.add(place, f"there is no file {outside.under(self.base, leaf)}")
            elif not isinstance(leaf, Endpoint) and not self.smoke and outside.files(leaf, self.base) is None:
                return self.hub.pinned(leaf)
        except AlignError as error:
            self.source.add((*place, "path"), str(error))
        return leaf

    def _unused(self, entries: dict[str, Entry]) -> Iterator[Problem]:
        used = {name for entry in entries.values() for name in _needs(entry)}
        for section in ("models", "data"):
            for name in self.source.at((section,)) or ():
                if name not in used:
                    yield self.source.problem((section, name), "no stage refers to it")
        for entry in entries.values():
            for place in entry.unused() if isinstance(entry, Draft) else ():
                yield self.source.problem(place, "no stage of the group refers to it")


def _needs(entry: Entry) -> list[str]:
    """The names that a stage or group refers to; a loop's results by the name of the loop."""
    return [reference.name.partition(".")[0] for _, reference in entry.references()]


def _touches(path: Place, wrong: Iterable[Place]) -> bool:
    return any(other[: len(path)] == path for other in wrong)


def _what_is_right(cls: type[Stage], fields: dict[str, Any]) -> Stage:
    """An unchecked stage with those fields that are right alone, so that their references can be looked at."""
    good = {}
    for name, info in cls.model_fields.items():
        try:
            value = fields.get(info.alias or name)
            good[name] = TypeAdapter(info.rebuild_annotation()).validate_python(value)
        except ValidationError:
            good[name] = None
    return cls.model_construct(**good)
