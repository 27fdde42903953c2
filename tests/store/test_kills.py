"""The store survives SIGKILL at any moment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from align.store import Artifact, Store
from tests.store.conftest import KEY, fill, killed_after, make


def committed(store: Store, loss: float) -> Artifact:
    return store.commit(KEY, "policy", {"loss": loss}, {"stage": "sft", "inputs": {}})


def test_a_commit_killed_at_any_moment_leaves_nothing_or_all_and_can_be_repeated(store: Store, no_sync) -> None:
    changes, recovered, kill = 0, 0, True
    while kill:
        fill(store)
        for name in "abc":  # more than one, so that a copy in place of the rename has its manifest in the middle
            (store.inside / "work" / KEY / "out" / name).touch()
        kill = killed_after(changes, lambda: committed(store, 0.5), store)
        found = store.find(KEY)
        assert found is None or found.damage() == []
        finished = found or store.recover(KEY)
        recovered += found is None and finished is not None
        assert (finished or make(store)).damage() == []
        assert len(list((store.inside / "artifacts").iterdir())) == 1
        store.discard(store.inside / "artifacts" / KEY)
        changes += 1
    assert changes > 10
    assert recovered > 0  # killed between the manifest and the rename: put in place, not made again


def test_of_two_artifacts_of_a_key_there_is_always_one(store: Store, no_sync) -> None:
    make(store)
    old = store.root.with_name("old")
    shutil.copytree(store.root, old)
    for changes in range(100):
        shutil.rmtree(store.root)
        shutil.copytree(old, store.root)
        store.supersede(KEY)
        assert store.superseded(KEY) and store.find(KEY) and store.recover(KEY) is None
        fill(store)
        kill = killed_after(changes, lambda: committed(store, 0.4), store)
        if not kill:
            break
        made = store.recover(KEY)
        assert made is not None or store.find(KEY)
        assert store.superseded(KEY) == (made is None)
    else:
        pytest.fail("never came to its end")
    assert store.find(KEY).metrics == {"loss": 0.4}  # type: ignore[union-attr]


def test_what_lies_on_disk_before_the_manifest_and_before_the_rename(store: Store, monkeypatch) -> None:
    fill(store)
    done: list[str] = []

    def recorded(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments):
            target = arguments[-1] if name != "fsync" else os.readlink(f"/proc/self/fd/{arguments[0]}")
            done.append(f"{name} {Path(target).name}")
            return real(*arguments)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "rename", "replace"):
        recorded(name)
    store.commit(KEY, "policy", {}, {"stage": "sft", "inputs": {}})
    assert done[: done.index(f"rename {KEY}") + 2] == [
        "fsync weights", "fsync records.jsonl", "fsync out", "fsync model",
        f"fsync .manifest.json.{os.getpid()}", "replace manifest.json", "fsync out",
        f"rename {KEY}", "fsync artifacts",
    ]  # fmt: skip


def test_what_a_power_cut_left_is_not_recovered(store: Store, no_sync) -> None:
    changes = 0
    while store.recover(KEY) is None:  # kill ever later, until manifest and files are there
        fill(store)
        killed_after(changes, lambda: committed(store, 0.5), store)
        out = store.inside / "work" / KEY / "out"
        if (out / "manifest.json").exists():
            break
        changes += 1
    (out / "records.jsonl").chmod(0o644)
    (out / "records.jsonl").write_text("")
    assert store.recover(KEY) is None
    fill(store)
    (out / "manifest.json").write_text(f'{{"kind": "policy", "key": "{KEY}", "metrics": {{}}}}')  # a stage's own
    assert store.recover(KEY) is None


def test_the_memory_of_the_last_run_is_old_or_new_after_any_kill(store: Store, no_sync) -> None:
    old, new = ({"sft": {"key": name, "parts": {}}} for name in "ab")
    changes, kill = 0, True
    while kill:
        store.remember("zephyr", old)
        kill = killed_after(changes, lambda: store.remember("zephyr", new), store)
        assert store.last("zephyr") in (old, new)
        changes += 1
    assert store.last("zephyr") == new


def test_a_deletion_killed_at_any_moment_leaves_all_or_nothing(store: Store, no_sync) -> None:
    changes, kill = 0, True
    while kill:
        artifact = make(store)
        kill = killed_after(changes, lambda path=artifact.path: store.discard(path), store)
        found = store.find(KEY)
        assert found is None or found.damage() == []
        changes += 1
    assert changes > 4
    assert {why for _, _, why in store.collect()} == {"half deleted"}


def test_a_cache_entry_killed_at_any_moment_is_whole_or_absent(store: Store, no_sync) -> None:
    def two_files(folder: Path) -> None:
        (folder / "a").write_text("1")
        (folder / "b").write_text("2")

    changes, kill = 0, True
    while kill:
        kill = killed_after(changes, lambda: store.cached("tokens", "k", two_files), store)
        folder = store.inside / "cache" / "tokens" / "k"
        if folder.exists():
            assert sorted(p.name for p in folder.iterdir()) == ["a", "b"]
        assert store.cached("tokens", "k", two_files) == folder
        store.discard(folder)
        changes += 1
    assert changes > 5


def test_a_link_moves_to_the_new_artifact_at_any_kill(store: Store, no_sync) -> None:
    old, new = make(store, "a1" * 16), make(store, "a2" * 16)
    changes, kill = 0, True
    while kill:
        store.link("zephyr", "sft", old)
        kill = killed_after(changes, lambda: store.link("zephyr", "sft", new), store)
        assert store.get("zephyr/sft") in (old, new)
        changes += 1
    assert store.get("zephyr/sft") == new
    assert [str(p.name) for p in store._links()] == ["sft"]
