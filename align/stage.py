"""The contract of a stage: a small frozen class whose fields are its configuration and whose `run` makes an artifact.

    class Shorten(Stage):
        \"\"\"Keep the first n words of every reply.\"\"\"

        name = "shorten"
        makes = "records"

        data: RecordsRef
        \"\"\"What to shorten.\"\"\"
        words: int = 20
        \"\"\"Words to keep.\"\"\"

        def run(self, ctx: Context) -> dict[str, float]:
            ...

Fields that take other stages' results are references (`$sft` in YAML), typed by the kind they need; the graph of a
recipe follows from them. A module of stages imports no torch at its top: `align plan` reads fields only.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel
from pydantic_core import core_schema

from align.config import Config, Data, Endpoint, Model
from align.errors import DataError

if TYPE_CHECKING:
    from align.machine import Machine
    from align.store import Artifact, Store

Kind = Literal["policy", "reward", "records", "report"]


class Reference:
    """`$name` in a recipe: the result of a stage, or an entry of `models:` or `data:`."""

    kinds: ClassVar[tuple[Kind | Literal["endpoint"], ...]] = ("policy", "reward", "records", "report")

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"${self.name}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    @classmethod
    def _parse(cls, value: Any) -> Reference:
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and value.startswith("$") and len(value) > 1:
            return cls(value[1:])
        raise ValueError(f"expected a reference to {' or '.join(cls.kinds)}, such as $name, found {value!r}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._parse, serialization=core_schema.plain_serializer_function_ser_schema(repr)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        wanted = f"a reference to {' or '.join(cls.kinds)}, such as $name"
        return {"type": "string", "pattern": r"^\$.+", "description": wanted}


class PolicyRef(Reference):
    """A language model: an entry of `models:` or a stage that makes a policy."""

    kinds = ("policy",)


class GeneratorRef(Reference):
    """Whoever writes replies: a policy, or an endpoint of `models:`."""

    kinds = ("policy", "endpoint")


class ContestantRef(Reference):
    """Whose replies are compared: a policy's, an endpoint's, or ready ones that are records."""

    kinds = ("policy", "endpoint", "records")


class RewardRef(Reference):
    """A trained reward model."""

    kinds = ("reward",)


class RecordsRef(Reference):
    """A dataset: an entry of `data:` or a stage that makes records."""

    kinds = ("records",)


class ReportRef(Reference):
    """What a stage tells of others, such as a comparison."""

    kinds = ("report",)


class Stage(Config, ABC):
    """One step of a recipe. Subclasses add fields and `run`; they are final."""

    name: ClassVar[str]
    """What a recipe writes after `stage:`."""
    version: ClassVar[int] = 1
    """Raise it when the same fields must make a different result; cached results of older versions are left alone."""
    makes: ClassVar[Kind]
    """The kind of artifact that `run` makes."""
    unkeyed: ClassVar[frozenset[str]] = frozenset()
    """Fields that change no result, such as how often to save; they are left out of the key."""
    distributed: ClassVar[bool] = False
    """Whether `run` may be called on several ranks at once."""

    def check(self, ctx: Context) -> dict[str, Any]:
        """Pre-flight: cheap, on CPU, before any stage computes. Raises AlignError if the result could not be trusted.

        Returns figures for people (rows, tokens, parameters, predicted bytes), shown by `align plan --check`. Nobody
        hears what it notes: what matters, `run` tells.
        """
        return {}

    @abstractmethod
    def run(self, ctx: Context) -> dict[str, float]:
        """Writes the artifact's files into `ctx.out` and returns its metrics."""

    def measures(self) -> frozenset[str] | None:
        """The metrics that a report can have, or patterns of them such as `mmlu/*`, for a gate that asks for one; None
        where only `run` knows."""
        return None

    def doubts(self, made_by: Mapping[str, Stage]) -> Iterator[tuple[str, str]]:
        """(field path, what is wrong) about the stages whose results this one takes, so that a recipe is refused before
        anything is computed. made_by: the recipe's stages, by name."""
        return iter(())

    def references(self) -> Iterator[tuple[str, Reference]]:
        """(field path, reference) of every reference in the fields, in field order."""
        for name in type(self).model_fields:
            yield from _references(name, getattr(self, name))


def _references(path: str, value: Any) -> Iterator[tuple[str, Reference]]:
    if isinstance(value, Reference):
        yield path, value
    elif isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            yield from _references(f"{path}.{info.alias or name}", getattr(value, name))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _references(f"{path}.{name}", item)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _references(f"{path}.{i}", item)


def seed_of(seed: int, *parts: str | int) -> int:
    """A seed below 2**31 for one role of one stage: `hash(run seed, stage, role)`, the same everywhere."""
    text = "\0".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class Context:
    """What a stage may use while it runs: its inputs, its folders, its seed, the machine, and a way to tell people."""

    stage: str
    """The stage's name in the recipe."""
    type: str
    """The registered name of its class."""
    key: str
    """The content key of the artifact being made."""
    seed: int
    """The recipe's seed; `ctx.seed_of(role)` derives the seeds to use."""
    inputs: Mapping[str, Artifact | Model | Endpoint | Data]
    """What each reference stands for, by its name without the `$`."""
    keys: Mapping[str, str]
    """The content key of each input, likewise."""
    store: Store
    machine: Machine
    work: Path
    """A folder of this key that outlives a killed run: checkpoints go here."""
    out: Path
    """The folder that becomes the artifact when `run` returns."""
    emit: Callable[..., None] = field(default=lambda event, **values: None)
    """`emit("step", step=3, steps=100, loss=1.2, ...)`: one event for the display and for `--json`."""
    stopping: Callable[[], bool] = field(default=lambda: False)
    """True once a signal asked the run to stop: finish the step, save, and raise Interrupted."""
    base: Path = field(default_factory=Path.cwd)
    """The recipe's folder: relative paths start here."""
    forerunners: Mapping[str, Artifact | Model] = field(default_factory=dict)
    """In a check, for policies and reward models that are yet to be made: the model that they will descend from."""

    def __getitem__(self, reference: Reference) -> Artifact | Model | Endpoint | Data:
        return self.inputs[reference.name]

    def checkpoint(self, reference: Reference) -> Artifact | Model:
        """The artifact or model of a reference. Raises DataError where it is a dataset, or behind a server."""
        return self._with_weights(reference.name, self.inputs[reference.name])

    def forerunner(self, policy: Reference) -> Artifact | Model:
        """The policy or reward model, or in a check, where it is yet to be made, the model that it will descend from.

        The two have the same tokenizer, template and sizes, so rows can be checked before anything computes.
        """
        name = policy.name
        ahead = name not in self.inputs and name in self.forerunners
        return self._with_weights(name, self.forerunners[name] if ahead else self.inputs[name])

    def knows(self, reference: Reference) -> bool:
        """Whether a reference's model is there or, in a check, what it will descend from."""
        return reference.name in self.inputs or reference.name in self.forerunners

    def _with_weights(self, name: str, source: Artifact | Model | Endpoint | Data) -> Artifact | Model:
        if isinstance(source, (Data, Endpoint)):
            what = "a dataset" if isinstance(source, Data) else "a model behind a server"
            raise DataError(f"stages.{self.stage}: {name!r} is {what}; weights are needed here")
        return source

    def seed_of(self, *role: str | int) -> int:
        """The seed of one role of this kind of stage. What the recipe calls the stage is in no key, so in no seed."""
        return seed_of(self.seed, self.type, *role)

    def saved(self) -> None:
        """Say that what was done so far outlives a kill, so that its time counts where a later run goes on from it.

        What lies in a cache of the store, which another stage may have filled, is not meant.
        """
        self.emit("saved")

    def note(self, text: str, level: Literal["info", "warning"] = "info") -> None:
        """One line for people, kept in the events."""
        self.emit("note", level=level, text=text)
