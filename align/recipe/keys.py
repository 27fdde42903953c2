"""Content keys: a hash of everything that makes a result what it is, and of nothing else.

A stage's key is made of its registered name and version, the fields that differ from their defaults, the seed, and
the keys of its inputs; so its name in the recipe, the order of keys in YAML, comments, and new fields at their default
change nothing. Outside inputs count by content: local files by hash, hub names by the commit they resolve to. A field
of type `Path` is a file beside the recipe and counts by content, too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from align.config import Data, Model
from align.data import sources, toy
from align.errors import DataError, RecipeError, suggestion
from align.recipe.source import Path_
from align.stage import Reference

if TYPE_CHECKING:
    from align.recipe.load import Recipe

HUB_SECONDS = 3.0


@dataclass(frozen=True)
class Key:
    """A content key and what it was made of."""

    value: str
    """Thirty-two hex digits."""
    parts: dict[str, Any] = field(hash=False)
    """The canonical form that was hashed: comparing two tells what changed."""
    provisional: str = ""
    """Why this cannot be the final key: the hub could not be asked. Enough for a plan, not for a run."""

    @classmethod
    def of(cls, parts: dict[str, Any], provisional: str = "") -> Key:
        return cls(hashlib.sha256(_dumps(parts).encode()).hexdigest()[:32], parts, provisional)


def keys(recipe: Recipe, hash_of: Callable[[Path], str]) -> dict[str, Key]:
    """The key of every outside input and every stage of a recipe, by name."""
    outside: dict[str, Model | Data] = {**recipe.models, **recipe.data}
    if recipe.smoke:
        made = {name: Key.of({"smoke": _kind(entry), "fields": _changed(entry, str)}) for name, entry in outside.items()}
    else:
        commits = _commits(recipe, outside)
        made = {name: _outside(entry, recipe.base, hash_of, commits.get(name)) for name, entry in outside.items()}
    for name, stage in recipe.stages.items():
        inputs = {path: made[reference.name] for path, reference in stage.references()}
        parts = {
            "stage": stage.name,
            "version": stage.version,
            "seed": recipe.seed,
            "fields": _changed(stage, lambda file: hash_of(_under(recipe.base, file))),
            "inputs": {path: key.value for path, key in inputs.items()},
        }
        made[name] = Key.of(parts, next((key.provisional for key in inputs.values() if key.provisional), ""))
    return made


def outside_files(entry: Model | Data, base: Path) -> list[Path] | None:
    """The local files or folders that make an entry of `models:` or `data:` what it is, or None for a hub name.

    Raises DataError where it names neither.
    """
    if isinstance(entry, Data):
        if entry.path == "toy":
            return [Path(toy.__file__)]
        return None if sources.is_hub_name(entry.path, base) else sources.files(entry, base)
    path = _under(base, Path(entry.path))
    if path.exists():
        return [path]
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", entry.path):
        return None
    near = suggestion(path.name, [p.name for p in path.parent.glob("*")]) if path.parent.is_dir() else ""
    raise DataError(f"{path}: no such folder, and no hub name either.{near}")


def files_in(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Path]]:
    """(path of the field, file) of every field of type Path."""
    if isinstance(value, Path):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from files_in(getattr(value, name), (*path, name))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from files_in(item, (*path, name))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from files_in(item, (*path, i))


def _outside(entry: Model | Data, base: Path, hash_of: Callable[[Path], str], commit: str | None) -> Key:
    files = outside_files(entry, base)
    fields = _changed(entry, str, leave_out=("path", "revision"))
    template = getattr(entry, "template", None)
    if template is not None and _under(base, Path(template)).is_file():
        fields["template"] = {"content": hash_of(_under(base, Path(template)))}
    parts: dict[str, Any] = {"outside": _kind(entry), "fields": fields}
    if files is not None:
        # Formats are told by suffix, and files of a folder are read in the order of their names.
        folder = _under(base, Path(entry.path))
        parts["content"] = [
            [file.relative_to(folder).as_posix() if file.is_relative_to(folder) and file != folder else _suffixes(file),
             hash_of(file)]
            for file in files
        ]  # fmt: skip
        return Key.of(parts)
    if commit is not None:
        return Key.of(parts | {"hub": entry.path, "commit": commit})
    reason = f"{entry.path} is not in the local Hugging Face cache and the hub does not answer"
    return Key.of(parts | {"hub": entry.path, "revision": entry.revision}, reason)


def _commits(recipe: Recipe, entries: dict[str, Model | Data]) -> dict[str, str | None]:
    """The commit of every hub name; None where nobody knows it now."""
    hub = {name: entry for name, entry in entries.items() if outside_files(entry, recipe.base) is None}
    problems = []

    def ask(name: str) -> str | None:
        try:
            return _commit(hub[name].path, hub[name].revision, _kind(hub[name]))
        except RecipeError as error:
            section = "models" if name in recipe.models else "data"
            problems.append(recipe.source.problem((section, name), str(error)))
            return None

    with ThreadPoolExecutor(max_workers=max(1, len(hub))) as pool:
        found = dict(zip(hub, pool.map(ask, hub), strict=True))
    if problems:
        raise RecipeError(problems)
    return found


def _commit(repo: str, revision: str, kind: Literal["model", "dataset"]) -> str | None:
    """What a branch or tag means: as the local cache has it, else as the hub says."""
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi, constants, errors
    from huggingface_hub.file_download import repo_folder_name

    cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind) / "refs" / revision
    if cached.is_file():
        return cached.read_text("utf-8").strip()
    try:
        return HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=HUB_SECONDS).sha
    except errors.RevisionNotFoundError:
        raise RecipeError(f"{repo} has no revision {revision!r} on the hub") from None
    except errors.RepositoryNotFoundError:
        raise RecipeError(f"the hub has no {kind} {repo!r}, or it needs a login (`hf auth login`)") from None
    except (OSError, errors.HfHubHTTPError):
        return None


def _changed(block: BaseModel, content: Callable[[Path], str], leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a block that are not at their default, in canonical form; `content` names a file by content."""
    made = {}
    for name, info in type(block).model_fields.items():
        value = _canonical(getattr(block, name), content)
        default = None if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
        at_default = not info.is_required() and _dumps(value) == _dumps(_canonical(default, lambda file: ""))
        # The tag of a union tells blocks apart whose fields are alike, so it counts at its default, too.
        is_tag = get_origin(info.annotation) is Literal and len(get_args(info.annotation)) == 1
        if name not in leave_out and (is_tag or not at_default):
            made[name] = value
    return made


def _canonical(value: Any, content: Callable[[Path], str]) -> Any:
    """Plain values that JSON can hold; a reference is `$`, for its input's key stands under the same path in `inputs`."""
    if isinstance(value, Reference):
        return "$"
    if isinstance(value, Path):
        return {"content": content(value)}
    if isinstance(value, BaseModel):
        return _changed(value, content)
    if isinstance(value, Mapping):
        return {str(name): _canonical(item, content) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item, content) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_canonical(item, content) for item in value), key=_dumps)
    return value


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _kind(entry: Model | Data) -> Literal["model", "dataset"]:
    return "model" if isinstance(entry, Model) else "dataset"


def _under(base: Path, path: Path) -> Path:
    return base / path.expanduser()


def _suffixes(file: Path) -> str:
    return "".join(file.suffixes[-2:] if file.suffix == ".gz" else file.suffixes[-1:])
