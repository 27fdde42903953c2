"""Content keys: a hash of everything that makes a result what it is, and of nothing else.

A stage's key is made of its registered name and version, the fields that differ from their defaults, the seed, and
the keys of its inputs; so its name in the recipe, the order of keys in YAML, comments, and new fields at their default
change nothing. What comes from outside counts by content: local files by hash, hub names by commit. A field of type
`Path` is a file beside the recipe and counts by content, too. So does the plugin file of a reward or a row format, with
what it imports from beside it, wherever one is used; stages, those of plugins too, have their version for that.

The name of a stage must therefore not decide its result; only a report shows the names of what it reports on, and has
them in its key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from align.config import Data, Endpoint, Model
from align.data.formats import FORMATS
from align.evals.benchmarks import Benchmark
from align.plugins import files_of
from align.recipe import outside
from align.registry import file_of
from align.rewards.base import REWARDS, RewardSpec
from align.stage import Reference

if TYPE_CHECKING:
    from align.recipe.load import Recipe
    from align.recipe.loops import Find, Loop


@dataclass(frozen=True)
class Key:
    """A content key and what it was made of."""

    value: str
    """Thirty-two hex digits."""
    parts: dict[str, Any] = field(hash=False)
    """The canonical form that was hashed: comparing two tells what changed."""
    provisional: str = ""
    """Why this cannot be the final key: the hub could not be asked. Enough for a plan, not for a run."""
    awaits: str = ""
    """The loop on whose outcome the final key depends."""


def keys(recipe: Recipe, hash_of: Callable[[Path], str], find: Find) -> dict[str, Key]:
    """The key of every outside input, every stage and every result of a loop of a recipe, by name."""
    made: dict[str, Key] = {}
    ends = {loop.stages[-1]: loop for loop in recipe.loops.values()}
    for name, entry in {**recipe.models, **recipe.data}.items():
        canonical = _Canonical(recipe.base, hash_of, recipe.smoke, recipe.plugins)
        made[name] = canonical.key(canonical.outside(entry))
    for name, stage in recipe.stages.items():
        inputs = {path: made[reference.name] for path, reference in stage.references()}
        canonical = _Canonical(recipe.base, hash_of, recipe.smoke, recipe.plugins, names=stage.makes == "report")
        canonical.doubts += [key.provisional for key in inputs.values() if key.provisional]
        canonical.awaits += [key.awaits for key in inputs.values() if key.awaits]
        parts = {
            "stage": stage.name,
            "version": stage.version,
            "seed": recipe.seed,
            "fields": canonical.changed(stage, tuple(stage.unkeyed)),
            "inputs": {path: key.value for path, key in inputs.items()},
        }
        made[name] = canonical.key(parts)
        if name in ends:
            made |= dict(_results(ends[name], made, find, recipe.smoke))
    return made


def _results(loop: Loop, made: Mapping[str, Key], find: Find, smoke: bool) -> Iterator[tuple[str, Key]]:
    """The key of each result of a loop: that of what was decided on, or one that awaits the decision."""
    decision = loop.decision(lambda name: made[name].value, find, smoke)
    for result, candidates in loop.results.items():
        if decision:
            yield result, made[candidates[decision.round]]
        else:
            parts = {"one of": [made[name].value for name in candidates]}
            yield result, Key(_hash(parts), parts, awaits=loop.name)


@dataclass
class _Canonical:
    """Turns fields into the plain values that are hashed, and remembers what could not be settled."""

    base: Path
    hash_of: Callable[[Path], str]
    smoke: bool
    plugins: tuple[Path, ...]
    names: bool = False
    """Whether the names of inputs count; they do in a report, which is read by people."""
    doubts: list[str] = field(default_factory=list)
    awaits: list[str] = field(default_factory=list)

    def key(self, parts: dict[str, Any]) -> Key:
        return Key(_hash(parts), parts, next(iter(self.doubts), ""), next(iter(self.awaits), ""))

    def outside(self, entry: Model | Endpoint | Data) -> dict[str, Any]:
        """The identity of an entry of `models:` or `data:`."""
        if self.smoke:
            return {"smoke": outside.kind(entry), "fields": self.changed(entry)}
        if isinstance(entry, Endpoint):
            identity = {"endpoint": entry.endpoint, "name": entry.name}
            return identity | ({"options": self.value(entry.options)} if entry.options else {})
        parts: dict[str, Any] = {"outside": outside.kind(entry), "fields": self.changed(entry, ("path", "revision"))}
        if isinstance(entry, Model) and entry.template and outside.under(self.base, entry.template).is_file():
            parts["fields"]["template"] = self.value(Path(entry.template))
        files = outside.files(entry, self.base)
        if files is not None:
            folder = outside.under(self.base, entry.path)
            parts["content"] = [[_shape(file, folder), self.hash_of(file)] for file in files]
        elif outside.COMMIT.fullmatch(entry.revision):
            parts |= {"hub": entry.path, "commit": entry.revision}
        else:
            parts |= {"hub": entry.path, "revision": entry.revision}
            self.doubts.append(f"{entry.path} is not in the local Hugging Face cache and the hub does not answer")
        return parts

    def changed(self, block: BaseModel, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
        """The fields of a block that say something: all but those at their default."""
        fields = {name: (info, getattr(block, name)) for name, info in type(block).model_fields.items()}
        said = {
            name: self.value(value)
            for name, (info, value) in fields.items()
            if name not in leave_out and _counts(info, value)
        }
        if isinstance(block, Benchmark) and block.local:
            said["content"] = [self.hash_of(file) for file in block.files(self.base)]
        plugins = [thing for thing in _code(block) if file_of(thing) in self.plugins]
        code = {file: self.hash_of(file) for thing in plugins for file in files_of(thing)}
        return said | {"plugin code": sorted(code.values())} if code else said

    def value(self, value: Any) -> Any:
        if isinstance(value, Reference):
            return f"${value.name}" if self.names else "$"  # Its input's key stands at the same place in `inputs`.
        if isinstance(value, Path):
            return {"content": self.hash_of(outside.under(self.base, value))}
        if isinstance(value, (Model, Endpoint, Data)):
            return self.outside(value)
        if isinstance(value, BaseModel):
            return self.changed(value)
        if isinstance(value, Mapping):
            return {str(name): self.value(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        if isinstance(value, (set, frozenset)):
            return sorted((self.value(item) for item in value), key=_dumps)
        return value


def blocks(value: Any) -> Iterator[BaseModel]:
    """Every block in a value, however deep, itself included."""
    if isinstance(value, BaseModel):
        yield value
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from blocks(item)


def _code(block: BaseModel) -> list[Callable[..., Any]]:
    """The functions that a block has called: its rule, its row format, or any format if it is to be recognised."""
    if isinstance(block, RewardSpec):
        return [REWARDS[block.rule].function] if block.rule in REWARDS.names() else []
    if isinstance(block, Data) and block.path != "toy":
        return [form.read for form in FORMATS.values() if block.format in (None, form.name)]
    return []


def _counts(info: FieldInfo, value: Any) -> bool:
    """Whether a field is part of the key."""
    if info.is_required() or outside.leaves(value):
        return True
    if get_origin(info.annotation) is Literal and len(get_args(info.annotation)) == 1:
        return True  # The tag of a union tells blocks apart whose fields are alike.
    default = info.get_default(call_default_factory=True, validated_data={})
    return type(value) is not type(default) or value != default


def _shape(file: Path, folder: Path) -> str:
    """What of a file's name matters: its place in a folder, or the suffix that tells its format."""
    if file != folder and file.is_relative_to(folder):
        return file.relative_to(folder).as_posix()
    return "".join(file.suffixes[-2:] if file.suffix == ".gz" else file.suffixes[-1:])


def _hash(parts: dict[str, Any]) -> str:
    return hashlib.sha256(_dumps(parts).encode()).hexdigest()[:32]


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
