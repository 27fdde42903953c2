"""From a recipe's file to a checked graph of stages: everything that is wrong with it is said at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError

from align.config import Config, Data, Endpoint, Model
from align.errors import AlignError, Problem, RecipeError, suggestion
from align.recipe import keys, outside
from align.recipe.lookup import find
from align.recipe.problems import problems
from align.recipe.source import Place, Source, read
from align.registry import STAGES, forget_plugins, load_plugin
from align.stage import Stage

_NAME = re.compile(r"[A-Za-z][\w-]*")


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
    """The steps, by the name that `$name` refers to; their order follows from the references."""


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

    def keys(self, hash_of: Callable[[Path], str]) -> dict[str, keys.Key]:
        """The content key of every stage and outside input, by name. `hash_of` names a file or folder by content."""
        return keys.keys(self, hash_of)

    def problem(self, where: str, what: str) -> Problem:
        """A problem with one of the recipe's keys, such as `stages.dpo.beta`, with its file and line."""
        return self.source.problem(_path(where), what)


def load(recipe: Path | str, overrides: Iterable[str] = (), smoke: bool = False) -> Recipe:
    """The recipe at a path or of a name. Raises RecipeError with every problem there is, in the order of the file."""
    source = read(find(recipe))
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

    def recipe(self) -> Recipe:
        header = self._header()
        plugins = tuple((self.base / file).resolve() for file in header.plugins)
        self._plugins(plugins)
        self._names()
        stages = {name: self._stage(name, cls) for name, cls in self._classes()}
        for name, stage in stages.items():
            self._check_references(name, stage)
        order = self._order(stages)
        models = outside.mapped(header.models, self._settled, ("models",))
        data = outside.mapped(header.data, self._settled, ("data",))
        stages = {name: outside.mapped(stages[name], self._settled, ("stages", name)) for name in order}
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
            warnings=tuple(self._unused(stages)),
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

    def _names(self) -> None:
        """Stages, models and datasets share one space of names, that of `$name`."""
        for section, kind in (("models", "model"), ("data", "dataset"), ("stages", None)):
            entries = self.source.at((section,))
            for name in entries if isinstance(entries, dict) else ():
                if not _NAME.fullmatch(name) or name in Header.model_fields:
                    self.source.add((section, name), f"{name!r} cannot be a name; use letters, digits, '_' and '-'")
                elif name in self.kinds:
                    self.source.add((section, name), f"{name!r} is taken already; `${name}` must mean one thing")
                self.kinds.setdefault(name, _shape(entries[name]) if kind == "model" else kind)

    def _classes(self) -> Iterator[tuple[str, type[Stage]]]:
        entries = self.source.at(("stages",))
        if entries == {}:
            self.source.add(("stages",), "a recipe needs at least one stage")
        for name, fields in entries.items() if isinstance(entries, dict) else ():
            if not isinstance(fields, dict):
                continue
            kind = fields.get("stage")
            if "rounds" in fields:
                self.source.add(("stages", name, "rounds"), "loops are not supported by this version of align")
            elif kind is None:
                self.source.add(("stages", name), f"`stage:` is missing. There are: {', '.join(STAGES.names())}")
            elif kind not in STAGES:
                what = f"no stage is called {kind!r}.{suggestion(str(kind), STAGES.names())}"
                self.source.add(("stages", name, "stage"), what)
            else:
                self.kinds[name] = STAGES[kind].makes
                yield name, STAGES[kind]

    def _stage(self, name: str, cls: type[Stage]) -> Stage:
        """The stage; where something is wrong with it, that is noted and the stage has only what is right."""
        path: Place = ("stages", name)
        fields = {key: value for key, value in self.source.at(path).items() if key != "stage"}
        try:
            return cls.model_validate(fields, context={"base": self.base})
        except ValidationError as error:
            for below, what in problems(error, cls, fields):
                self.source.add((*path, *below), what)
        return _what_is_right(cls, fields)

    def _check_references(self, name: str, stage: Stage) -> None:
        for where, reference in stage.references():
            here = _path(f"stages.{name}.{where}")
            if reference.name not in self.kinds:
                near = suggestion(reference.name, self.kinds)
                self.source.add(here, f"no stage, model or dataset is called {reference.name!r}.{near}")
                continue
            kind = self.kinds[reference.name]
            if kind is not None and {"model": "policy", "dataset": "records"}.get(kind, kind) not in reference.kinds:
                needs = " or ".join(map(_a, reference.kinds))
                is_ = f"is {_a(kind)}" if kind in ("model", "endpoint", "dataset") else f"makes {_a(kind)}"
                self.source.add(here, f"needs {needs}, but {reference.name!r} {is_}")

    def _order(self, stages: dict[str, Stage]) -> list[str]:
        """Names so that each comes after what it refers to; a cycle is noted."""
        order: list[str] = []

        def visit(name: str, open_: tuple[str, ...]) -> None:
            if name in order or name not in stages:
                return
            if name in open_:
                cycle = " -> ".join((*open_[open_.index(name) :], name))
                self.source.add(("stages", name), f"needs its own result: {cycle}")
                order.append(name)
                return
            for _, reference in stages[name].references():
                visit(reference.name, (*open_, name))
            if name not in order:
                order.append(name)

        for name in stages:
            visit(name, ())
        return order

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

    def _unused(self, stages: dict[str, Stage]) -> Iterator[Problem]:
        used = {reference.name for stage in stages.values() for _, reference in stage.references()}
        for section in ("models", "data"):
            for name in self.source.at((section,)) or ():
                if name not in used:
                    yield self.source.problem((section, name), "no stage refers to it")


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


def _path(where: str) -> Place:
    return tuple(int(part) if part.isdigit() else part for part in where.split("."))


def _a(noun: str) -> str:
    return noun if noun == "records" else f"an {noun}" if noun == "endpoint" else f"a {noun}"
