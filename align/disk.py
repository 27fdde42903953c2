"""Files that are there wholly or not at all, and names for what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any


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
