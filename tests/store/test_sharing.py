"""What several processes want at once: locks and cache entries."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from align.store import Store
from tests.store.conftest import KEY


def test_a_cache_entry_is_made_once_by_however_many(store: Store) -> None:
    calls = []

    def slow(folder: Path) -> None:
        calls.append(folder)
        time.sleep(0.1)
        (folder / "a").write_text("1")

    threads = [threading.Thread(target=store.cached, args=("tokens", "k", slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_an_entry_whose_making_failed_is_made_anew(store: Store) -> None:
    def fail(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise ValueError

    with pytest.raises(ValueError):
        store.cached("tokens", "k", fail)
    whole = store.cached("tokens", "k", lambda folder: (folder / "b").write_text("whole"))  # type: ignore[arg-type]
    assert [p.name for p in whole.iterdir()] == ["b"]


def test_a_lock_waits_for_its_holder_and_falls_free_when_it_is_killed(store: Store) -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with store.lock(KEY):
            os.write(tell, b"x")
            time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    owners = []

    def waiting(owner: str) -> None:
        owners.append(owner)
        if len(owners) == 2:
            os.kill(child, signal.SIGKILL)

    with store.lock(KEY, waiting):
        pass
    os.waitpid(child, 0)
    assert owners[:2] == [str(child)] * 2


def test_what_somebody_else_keeps_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder that belongs to another user nobody can say that it was used."""
    kept = store.cached("tokens", "k", lambda folder: None)

    def refused(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(os, "utime", refused)
    assert store.holds("tokens", "k") and not store.holds("tokens", "other")
    assert store.cached("tokens", "k", lambda folder: pytest.fail("made again")) == kept
