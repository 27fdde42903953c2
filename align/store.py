"""The store: artifacts named by what made them, and everything that leads to one or hastens the next.

    <recipe>/<stage>        links for people; `<recipe>/last.json` holds the keys of the recipe's last run
    .store/
      artifacts/<key>/      complete and immutable; `manifest.json` was written last
      work/<key>/           a stage in progress: checkpoints, log, events; `work/<key>/out` becomes the artifact
      cache/<name>/<key>/   what can be made again: tokens, reference log-probs, samples
      locks/<name>          one file a lock; the kernel frees it when its holder dies
      trash/                what is being deleted
      hashes.sqlite         contents of files that were read once

A process may be killed at any moment. So a folder appears under its name by one rename and disappears by one, its
bytes are on disk before its manifest, and the manifest before the rename. Whoever makes an artifact holds the lock of
its key; only `find` and `get` need none.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from align.disk import delete, files_below, hash_of, lost, sha256_of_file, size_of, sync, sync_folders, write_json
from align.errors import StoreError, suggestion
from align.stage import Kind

MANIFEST = "manifest.json"
SUPERSEDES = "supersedes.json"
"""In a work folder: the hash of the manifest whose artifact is to be made again."""
POLL_SECONDS = 0.2
CACHE_DAYS = 30
"""A cache entry that nobody used for so long can go."""


@dataclass(frozen=True)
class Artifact:
    """What a stage made: a folder of the store, or a copy of one elsewhere."""

    kind: Kind
    key: str
    path: Path
    metrics: dict[str, float] = field(default_factory=dict, hash=False)

    @property
    def manifest(self) -> dict[str, Any]:
        """Everything known about how it was made."""
        return json.loads((self.path / MANIFEST).read_text())

    @classmethod
    def at(cls, folder: Path) -> Artifact | None:
        """The artifact in a folder, or None if no complete one is there."""
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            made = cls(cast(Kind, manifest["kind"]), manifest["key"], folder, manifest["metrics"])
            return None if lost(folder, manifest.get("files", {})) else made
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def damage(self) -> list[str]:
        """The files that are missing or no longer what the manifest says."""
        return [
            name
            for name, known in self.manifest["files"].items()
            if not (self.path / name).is_file() or sha256_of_file(self.path / name) != known["sha256"]
        ]


@dataclass(frozen=True)
class Ancestor:
    """An artifact and what it was made from, as a tree."""

    field: str
    """The field that took it, such as `policy` or `data.0`; empty for the artifact asked about."""
    name: str
    """What the recipe calls it."""
    key: str
    artifact: Artifact | None
    """None for inputs from outside the recipe and for artifacts that were deleted."""
    inputs: tuple[Ancestor, ...] = ()
    decided: str = ""
    """Of a loop's result: what it turned out to be, and why."""


class Waste(NamedTuple):
    """Something that can be deleted."""

    path: Path
    bytes: int
    why: str


@dataclass(frozen=True)
class Store:
    """The artifacts, caches and links under one folder."""

    root: Path

    @property
    def inside(self) -> Path:
        """Where everything but the links is."""
        return self.root / ".store"

    def work(self, key: str) -> Path:
        """The work folder of a key, whether it is there or not."""
        return self.inside / "work" / key

    def find(self, key: str) -> Artifact | None:
        """The artifact of exactly this key."""
        return Artifact.at(self.inside / "artifacts" / key)

    def lost(self, key: str) -> list[str]:
        """The files that the artifact of a key had and that are missing by now, or of another size."""
        folder = self.inside / "artifacts" / key
        try:
            return lost(folder, json.loads((folder / MANIFEST).read_text()).get("files", {}))
        except (OSError, ValueError):
            return []

    def get(self, address: str) -> Artifact:
        """The artifact called `recipe/stage`, by the beginning of a key, or by path."""
        link = self.root / address
        for path in (Path(address), link):
            if made := Artifact.at(path.resolve()):
                return made
        if link.is_symlink():
            gone = ", ".join(self.lost(Path(os.readlink(link)).name)) or "it"
            raise StoreError(f"{address}: of its artifact {os.readlink(link)} {gone} was deleted. Run the recipe again")
        found = [a for a in self.artifacts() if address and a.key.startswith(address)]
        if len(found) > 1:
            keys = ", ".join(a.key for a in found[:5])
            raise StoreError(f"{address}: {len(found)} artifacts begin so ({keys}). Write more of the key")
        if not found:
            hint = suggestion(address, [str(p.relative_to(self.root)) for p in self._links()])
            raise StoreError(f"{address}: no such recipe/stage, key or artifact folder in {self.root}.{hint}")
        return found[0]

    def artifacts(self) -> list[Artifact]:
        """All artifacts, in the order in which they were finished."""
        found = [a for p in _children(self.inside / "artifacts") if (a := Artifact.at(p))]
        return sorted(found, key=lambda a: ((a.path / MANIFEST).stat().st_mtime_ns, a.key))

    def lineage(self, artifact: Artifact) -> Ancestor:
        """The artifact, its inputs, their inputs, and so on."""
        known: dict[str, tuple[Ancestor, ...]] = {}

        def inputs_of(made: Artifact) -> tuple[Ancestor, ...]:
            if made.key not in known:
                known[made.key] = tuple(ancestor(path, taken) for path, taken in made.manifest["inputs"].items())
            return known[made.key]

        def ancestor(path: str, taken: dict[str, str]) -> Ancestor:
            parent = self.find(taken["key"])
            inputs = inputs_of(parent) if parent else ()
            return Ancestor(path, taken["name"], taken["key"], parent, inputs, taken.get("decided", ""))

        return Ancestor("", artifact.manifest["stage"], artifact.key, artifact, inputs_of(artifact))

    # Making an artifact

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Callable[[str], None] = lambda owner: None) -> Iterator[None]:
        """Holds the lock of a key until the block ends or the process dies.

        While another process has it, `waiting` is called with that process's id a few times a second; to give up, it
        raises.
        """
        path = self.inside / "locks" / key.replace("/", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+") as file:
            while not _acquire(file):
                file.seek(0)
                waiting(file.read())
                time.sleep(POLL_SECONDS)
            file.truncate(0)
            print(os.getpid(), end="", file=file, flush=True)
            yield

    def workspace(self, key: str) -> Path:
        """The work folder of a key, with an empty `out`; whatever else a killed run left in it is still there."""
        work = self.work(key)
        self.discard(work / "out")
        (work / "out").mkdir(parents=True)
        return work

    def commit(self, key: str, kind: Kind, metrics: dict[str, float], manifest: dict[str, Any]) -> Artifact:
        """Turns `work/<key>/out` into the artifact, to which `manifest` adds what else is known, and drops the rest."""
        out = self.work(key) / "out"
        if (out / MANIFEST).exists():
            raise StoreError(f"{out}: a stage must not write {MANIFEST}; it is the store's")
        files = {str(path.relative_to(out)): _settle(path) for path in files_below(out)}
        sync_folders(out)
        if self.superseded(key):
            manifest = manifest | {"supersedes": json.loads((self.work(key) / SUPERSEDES).read_text())}
        write_json(out / MANIFEST, manifest | {"kind": kind, "key": key, "metrics": metrics, "files": files})
        return self._publish(key)

    def recover(self, key: str) -> Artifact | None:
        """The artifact of a key, put in place if a kill came between its manifest and its rename.

        None for one that is superseded, unless its successor is complete.
        """
        if (found := self.find(key)) and not self.superseded(key):
            return found
        left = Artifact.at(self.work(key) / "out")
        complete = left is not None and left.key == key and "files" in left.manifest and not left.damage()
        return self._publish(key) if complete else None

    def supersede(self, key: str) -> None:
        """Has the artifact of a key made again: it stays until another takes its place, whatever is killed."""
        manifest = self.inside / "artifacts" / key / MANIFEST
        if manifest.exists():
            mark = self.work(key) / SUPERSEDES
            mark.parent.mkdir(parents=True, exist_ok=True)
            write_json(mark, sha256_of_file(manifest))

    def superseded(self, key: str) -> bool:
        """Whether the artifact of a key is to be made again; it no longer is once another has taken its place."""
        mark, manifest = self.work(key) / SUPERSEDES, self.inside / "artifacts" / key / MANIFEST
        return mark.exists() and manifest.exists() and json.loads(mark.read_text()) == sha256_of_file(manifest)

    def _publish(self, key: str) -> Artifact:
        work, final = self.work(key), self.inside / "artifacts" / key
        self.discard(final)  # not complete, or superseded
        final.parent.mkdir(parents=True, exist_ok=True)
        os.rename(work / "out", final)
        sync(final.parent)
        self.discard(work)
        made = self.find(key)
        if made is None:
            raise StoreError(f"{final}: damaged while it was put in place")
        return made

    def holds(self, name: str, key: str) -> bool:
        """Whether a cache entry is there."""
        return (self.inside / "cache" / name / key).is_dir()

    def cached(self, name: str, key: str, make: Callable[[Path], None]) -> Path:
        """The folder of one cache entry, which `make` fills once, whatever kills it and however many ask."""
        folder = self.inside / "cache" / name / key
        with contextlib.ExitStack() as stack:
            if not folder.is_dir():
                stack.enter_context(self.lock(f"{name}-{key}"))
            if not folder.is_dir():
                part = folder.with_name(f".{key}.part")
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
                make(part)
                for path in files_below(part):
                    sync(path)
                sync_folders(part)
                os.rename(part, folder)
        with contextlib.suppress(OSError):  # in a store that is somebody else's
            os.utime(folder)  # used now: see CACHE_DAYS
        return folder

    # Names for people

    def link(self, recipe: str, stage: str, artifact: Artifact | None) -> None:
        """Makes `<recipe>/<stage>` lead to the artifact, or nowhere."""
        link = self.root / recipe / stage
        if artifact is None:
            link.unlink(missing_ok=True)
            return
        link.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(self.inside / "artifacts" / artifact.key, link.parent)
        if link.is_symlink() and os.readlink(link) == target:
            return
        new = link.with_name(f".{link.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        os.replace(new, link)

    def last(self, recipe: str) -> dict[str, Any]:
        """What `remember` was told of the recipe's last run; empty if there was none."""
        file = self.root / recipe / "last.json"
        try:
            return json.loads(file.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise StoreError(f"{file}: damaged. Delete it; the recipe's next run writes it anew") from None

    def remember(self, recipe: str, stages: dict[str, Any]) -> None:
        """Keeps what each stage's key was made of, so that the next plan can say what changed; others stay."""
        (self.root / recipe).mkdir(parents=True, exist_ok=True)
        with self.lock(f"last-{recipe}"):
            write_json(self.root / recipe / "last.json", self.last(recipe) | stages)

    def _links(self) -> list[Path]:
        return [p for p in self._visible("*") if p.is_symlink() and not p.name.startswith(".")]

    def _visible(self, pattern: str) -> list[Path]:
        """What fits a pattern in the recipes' folders."""
        folders = [folder for folder in _children(self.root) if folder.is_dir() and folder != self.inside]
        return [path for folder in folders for path in sorted(folder.rglob(pattern))]

    # Contents of files

    def hash_of(self, path: Path) -> str:
        """SHA-256 of a file, or of a folder's names and contents, where hidden files don't count; read once."""
        self.inside.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            raise StoreError(f"{path}: no such file or folder")
        return hash_of(path, self.inside / "hashes.sqlite")

    # Deleting

    def discard(self, path: Path) -> None:
        """Deletes a file or folder of the store: gone under its name at once, however long it takes."""
        if not os.path.lexists(path):
            return
        trash = self.inside / "trash" / f"{path.name}-{os.getpid()}-{time.time_ns()}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, trash)
        delete(trash)

    def collect(self, keep: Iterable[str] = ()) -> list[Waste]:
        """What can be deleted: whatever no recipe's last run leads to, apart from the keys to keep. Deletes nothing."""
        return [Waste(path, size_of(path), why) for path, why in self._waste(keep) if not self._locked(path)]

    def remove(self, path: Path, keep: Iterable[str] = ()) -> bool:
        """Deletes what `collect` found, unless it is in use by now; whether it did."""
        with contextlib.ExitStack() as stack:
            for lock in self._locks(path):
                if not _acquire(stack.enter_context(open(lock, "a+"))):
                    return False
            if path not in [found for found, _ in self._waste(keep)]:
                return False
            self.discard(path)
            return True

    def _waste(self, keep: Iterable[str]) -> list[tuple[Path, str]]:
        last = [self.last(str(p.parent.relative_to(self.root))) for p in self._visible("last.json")]
        current = {stage["key"] for run in last for stage in run.values()}
        wanted = self._reachable({*keep, *current, *(Path(os.readlink(p)).name for p in self._links())})
        stale = time.time() - CACHE_DAYS * 86400
        waste = [(p, "half deleted") for p in _children(self.inside / "trash")]
        for path in _children(self.inside / "artifacts"):
            if path.name not in wanted:
                waste.append((path, "no recipe's last run leads to it"))
        for path in _children(self.inside / "work"):
            if path.name not in current or (self.find(path.name) and not self.superseded(path.name)):
                waste.append((path, "left by a run that its recipe no longer continues"))
        for path in [p for name in _children(self.inside / "cache") for p in _children(name)]:
            if path.stat().st_mtime < stale:
                waste.append((path, f"not used for {CACHE_DAYS} days"))
        return waste

    def _reachable(self, keys: set[str]) -> set[str]:
        seen: set[str] = set()
        while keys:
            seen |= keys
            made = [a for key in keys if (a := self.find(key))]
            keys = {taken["key"] for a in made for taken in a.manifest["inputs"].values()} - seen
        return seen

    def _locked(self, path: Path) -> bool:
        for lock in self._locks(path):
            with open(lock, "a+") as file:
                if not _acquire(file):
                    return True
        return False

    def _locks(self, path: Path) -> list[Path]:
        """The locks under which the folder of an artifact, of a stage in progress, or of a cache entry is made."""
        names = (path.name, f"{path.parent.name}-{path.name.removeprefix('.').removesuffix('.part')}")
        return [lock for name in names if (lock := self.inside / "locks" / name).exists()]


def _acquire(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _settle(path: Path) -> dict[str, Any]:
    """Puts an artifact's file on disk, read-only, and says what it is."""
    if path.is_symlink():
        raise StoreError(f"{path}: an artifact holds its own files, not links to others")
    path.chmod(0o444)
    sync(path)
    return {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
