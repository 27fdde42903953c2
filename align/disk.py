"""Files that are there wholly or not at all, and names for what they hold."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RACY_NS = 2_000_000_000
"""A file younger than this when it was read may change again without a new time stamp; its hash isn't remembered."""


def write_json(path: Path, value: Any) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with open(part, "w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Puts a file's bytes, or a folder's names, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folders(folder: Path) -> None:
    """Puts the names in a folder and all below it on disk."""
    for at, _, _ in os.walk(folder):
        sync(Path(at))


def delete(path: Path) -> None:
    """Deletes a file, a link, or a folder with all that it holds, as far as it can."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, through links as well, in one order everywhere."""
    return sorted(Path(at, name) for at, _, names in os.walk(folder, followlinks=True) for name in names)


def lost(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Those of a folder's files that are missing, or of another size than their `bytes`; none is read."""

    def changed(name: str) -> bool:
        try:
            return (folder / name).stat().st_size != files[name]["bytes"]
        except OSError:
            return True

    return [name for name in files if changed(name)]


def size_of(path: Path) -> int:
    """Bytes of a file or folder."""
    return sum(p.stat().st_size for p in files_below(path)) if path.is_dir() else path.lstat().st_size


def sha256_of(value: Any) -> str:
    """SHA-256 of a JSON value, in hex; the order of a mapping's keys doesn't count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(path: Path, known: Path) -> str:
    """SHA-256 of a file, or of a folder's names and contents, where hidden files don't count.

    Remembered in the database `known` by path, size, time and inode, so that a large file is read once; each at once,
    so that nobody waits for a folder and a kill loses one file.
    """
    with contextlib.closing(_opened(known)) as memory:
        if path.is_file():
            return _remembered(memory, path)
        visible = [(p.relative_to(path), p) for p in files_below(path)]
        visible = [(name, p) for name, p in visible if not any(part.startswith(".") for part in name.parts)]
        return sha256_of([(str(name), _remembered(memory, p)) for name, p in visible])


def _opened(known: Path) -> sqlite3.Connection:
    """The database, made where it is missing, and anew where it is damaged: it only saves reading files again."""
    for damaged in (False, True):
        if damaged:
            known.unlink(missing_ok=True)
        memory = sqlite3.connect(known, 60, isolation_level=None)
        try:
            memory.execute("create table if not exists files (path primary key, stamp, sha256)")
            return memory
        except sqlite3.OperationalError:  # locked, or a disk that is full: nothing is wrong with the file
            raise
        except sqlite3.DatabaseError:
            memory.close()
    raise AssertionError("a new database cannot be damaged")


def _remembered(memory: sqlite3.Connection, path: Path) -> str:
    name, stamp = str(path.absolute()), _stamp(path)
    known = memory.execute("select sha256 from files where path = ? and stamp = ?", (name, stamp)).fetchone()
    if known:
        return known[0]
    settled = time.time_ns() - path.stat().st_mtime_ns > RACY_NS
    found = sha256_of_file(path)
    if settled and _stamp(path) == stamp:
        memory.execute("replace into files values (?, ?, ?)", (name, stamp, found))
    return found


def _stamp(path: Path) -> str:
    now = path.stat()
    return f"{now.st_size}:{now.st_mtime_ns}:{now.st_ino}"
