"""What a recipe takes from outside: files beside it, and entries of `models:` and `data:`, local or on the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, overload

from pydantic import BaseModel

from align.config import Data, Endpoint, Model
from align.data import sources, toy
from align.errors import DataError, RecipeError, suggestion
from align.source import Place

HUB_SECONDS = 3.0
COMMIT = re.compile(r"[0-9a-f]{40}")

Change = Callable[[Place, Any], Any]
LEAVES = (Path, Model, Endpoint, Data)


def mapped(value: Any, change: Change, place: Place = (), kinds: tuple[type, ...] = LEAVES) -> Any:
    """The same value with `change(place, leaf)` for every Path, Model, Endpoint and Data in it, or other kinds."""
    if isinstance(value, kinds):
        return change(place, value)
    if isinstance(value, BaseModel):
        fields = {name: (getattr(value, name), info.alias or name) for name, info in type(value).model_fields.items()}
        made = {name: mapped(old, change, (*place, key), kinds) for name, (old, key) in fields.items()}
        changed = {name: new for name, new in made.items() if new != fields[name][0]}
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, Mapping):
        return {name: mapped(item, change, (*place, name), kinds) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(item, change, (*place, i), kinds) for i, item in enumerate(value))
    return value


def leaves(value: Any) -> list[tuple[Place, Any]]:
    """(place, leaf) of every Path, Model, Endpoint and Data in a value."""
    found: list[tuple[Place, Any]] = []

    def note(place: Place, leaf: Any) -> Any:
        found.append((place, leaf))
        return leaf

    mapped(value, note)
    return found


def kind(entry: Model | Endpoint | Data) -> Literal["model", "endpoint", "dataset"]:
    if isinstance(entry, Endpoint):
        return "endpoint"
    return "model" if isinstance(entry, Model) else "dataset"


def under(base: Path, path: Path | str) -> Path:
    """A path of the recipe, whose relative ones start at its folder."""
    return base / Path(path).expanduser()


def files(entry: Model | Data, base: Path) -> list[Path] | None:
    """The local files or folders whose content is an entry's identity, or None for a hub name.

    Raises DataError where it names neither.
    """
    if isinstance(entry, Data):
        if entry.path == "toy":
            return toy.files(str(entry.options.get("kind")))
        return None if sources.is_hub_name(entry.path, base) else sources.files(entry, base)
    path = under(base, entry.path)
    if (path / "contract.json").is_file() and (path / "manifest.json").is_file():
        raise DataError(f"{path}: an artifact, not a checkpoint. Make one of it: align export {path} DIR")
    if path.exists():
        return [path, *_beneath(path)]
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", entry.path):
        return None
    near = suggestion(path.name, [p.name for p in path.parent.glob("*")]) if path.parent.is_dir() else ""
    raise DataError(f"{path}: no such folder, and no hub name either.{near}")


def _beneath(folder: Path) -> list[Path]:
    """The local folder of the weights that a PEFT folder is an adapter for, and what lies beneath that."""
    try:
        named = json.loads((folder / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError):
        return []
    below = folder / (named or "")
    return [below, *_beneath(below)] if named and below.is_dir() and below.resolve() != folder.resolve() else []


class Hub:
    """Turns branches and tags into commits: as the local cache has them, else as the hub says.

    A hub that did not answer once is not asked again, so that planning without a network stays quick.
    """

    def __init__(self) -> None:
        self.silent = False

    @overload
    def pinned(self, entry: Model) -> Model: ...
    @overload
    def pinned(self, entry: Data) -> Data: ...
    def pinned(self, entry: Model | Data) -> Model | Data:
        """The entry at a commit, or as it is while nobody can say. Raises RecipeError where the hub has none."""
        commit = self._commit(entry.path, entry.revision, "model" if isinstance(entry, Model) else "dataset")
        return entry.model_copy(update={"revision": commit}) if commit else entry

    def _commit(self, repo: str, revision: str, kind: Literal["model", "dataset"]) -> str | None:
        if COMMIT.fullmatch(revision):
            return revision
        from huggingface_hub import constants

        folder = f"{kind}s--{repo.replace('/', '--')}"
        cached = Path(constants.HF_HUB_CACHE) / folder / "refs" / revision
        if cached.is_file():
            return cached.read_text("utf-8").strip()
        if self.silent or constants.HF_HUB_OFFLINE:
            return None
        from huggingface_hub import HfApi, errors  # with an HTTP client, which takes as long as a plan

        try:
            return HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=HUB_SECONDS).sha
        except errors.RevisionNotFoundError:
            raise RecipeError(f"{repo} has no revision {revision!r} on the hub") from None
        except errors.RepositoryNotFoundError:
            raise RecipeError(f"the hub has no {kind} {repo!r}, or it needs a login (`hf auth login`)") from None
        except Exception:  # No answer: the transport's own errors differ between versions of the client.
            self.silent = True
            return None
