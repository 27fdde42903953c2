"""A store, filled, and killed at any moment."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import align.disk
import align.store
from align.store import Artifact, Store

KEY = "ab" * 16
WATCHED = (align.store.__file__, align.disk.__file__, shutil.__file__)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def no_sync(monkeypatch) -> None:
    """A killed process loses nothing that it wrote; only a machine without power does."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def fill(store: Store, key: str = KEY) -> None:
    out = store.workspace(key) / "out"
    (out / "model").mkdir()
    (out / "model" / "weights").write_bytes(b"\1" * 3000)
    (out / "records.jsonl").write_text("{}\n")


def make(store: Store, key: str = KEY, stage: str = "sft", **inputs: str) -> Artifact:
    fill(store, key)
    taken = {path: {"name": path, "key": value} for path, value in inputs.items()}
    return store.commit(key, "policy", {"loss": 0.5}, {"stage": stage, "inputs": taken})


def killed_after(changes: int, act: Callable[[], object], store: Store) -> bool:
    """Forks, acts in the child, and kills it once the store's files have changed so often.

    They are looked at before every line of the code that touches files; a kill between two lines before which they are
    the same leaves the same. False if the child came to its end.
    """
    child = os.fork()
    if child == 0:
        left, before = changes, None

        def trace(frame, event, argument):
            nonlocal left, before
            if frame.f_code.co_filename not in WATCHED:
                return None
            if event == "line":
                now = lying(store.root)
                left, before = left - (before not in (None, now)), now
                if left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        try:
            act()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def lying(folder: Path) -> list[tuple[object, ...]]:
    """What is in a folder and below: anything that a kill could leave otherwise."""
    found = [(path, path.lstat()) for path in sorted(folder.rglob("*"))]
    return [(path, of.st_mode, of.st_ino, of.st_size, of.st_mtime_ns) for path, of in found]
