"""The store survives SIGKILL between any two of its lines, and never runs or reads twice what it has."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import align.disk
import align.store
from align.disk import sha256_of
from align.errors import StoreError
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


def killed_after(lines: int, act: Callable[[], object]) -> bool:
    """Forks, acts in the child, and kills it before its line number `lines` in the code that touches files.

    False if it came to its end.
    """
    child = os.fork()
    if child == 0:
        left = lines

        def trace(frame, event, argument):
            nonlocal left
            if frame.f_code.co_filename not in WATCHED:
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        try:
            act()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_committed_artifact_is_found_with_its_manifest(store: Store) -> None:
    made = make(store)
    assert store.find(KEY) == made == store.artifacts()[0]
    assert made.path == store.inside / "artifacts" / KEY
    assert (made.kind, made.metrics) == ("policy", {"loss": 0.5})
    # sha256sum of "{}\n", by the coreutils
    known = "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"
    assert made.manifest["files"]["records.jsonl"] == {"bytes": 3, "sha256": known}
    assert set(made.manifest["files"]) == {"records.jsonl", "model/weights"}
    assert not (store.inside / "work" / KEY).exists()
    assert made.damage() == []


def test_a_changed_or_missing_file_is_damage(store: Store) -> None:
    made = make(store)
    (made.path / "records.jsonl").unlink()
    weights = made.path / "model" / "weights"
    weights.chmod(0o644)
    weights.write_bytes(b"\1" * 2999 + b"\2")
    assert made.damage() == ["model/weights", "records.jsonl"]


@pytest.mark.parametrize("content", ["", "{", '{"kind": "policy", "key": "x"', "[]", '{"kind": "policy"}'])
def test_a_folder_without_a_whole_manifest_is_no_artifact(store: Store, content: str) -> None:
    folder = store.inside / "artifacts" / KEY
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(content)
    assert store.find(KEY) is None
    assert store.artifacts() == []
    assert make(store).damage() == []  # and doesn't stand in the way


def test_stages_must_not_write_the_manifest_nor_links(store: Store) -> None:
    fill(store)
    (store.inside / "work" / KEY / "out" / "manifest.json").write_text("{}")
    with pytest.raises(StoreError, match=r"manifest\.json"):
        store.commit(KEY, "policy", {}, {})
    assert store.recover(KEY) is None
    fill(store)
    (store.inside / "work" / KEY / "out" / "link").symlink_to("/etc/hostname")
    with pytest.raises(StoreError, match="not links"):
        store.commit(KEY, "policy", {}, {})


def test_a_commit_killed_at_any_line_leaves_nothing_or_all_and_can_be_repeated(store: Store, no_sync) -> None:
    lines, recovered, kill = 0, 0, True
    while kill:
        fill(store)
        for name in "abc":  # more than one, so that a copy in place of the rename has its manifest in the middle
            (store.inside / "work" / KEY / "out" / name).touch()
        kill = killed_after(lines, lambda: store.commit(KEY, "policy", {"loss": 0.5}, {"stage": "sft", "inputs": {}}))
        found = store.find(KEY)
        assert found is None or found.damage() == []
        finished = found or store.recover(KEY)
        recovered += found is None and finished is not None
        assert (finished or make(store)).damage() == []
        assert len(list((store.inside / "artifacts").iterdir())) == 1
        store.discard(store.inside / "artifacts" / KEY)
        lines += 1
    assert lines > 40
    assert recovered > 0  # killed between the manifest and the rename: put in place, not made again


def test_of_two_artifacts_of_a_key_there_is_always_one(store: Store, no_sync) -> None:
    make(store)
    old = store.root.with_name("old")
    shutil.copytree(store.root, old)
    for lines in range(400):
        shutil.rmtree(store.root)
        shutil.copytree(old, store.root)
        store.supersede(KEY)
        assert store.superseded(KEY) and store.find(KEY) and store.recover(KEY) is None
        fill(store)
        kill = killed_after(lines, lambda: store.commit(KEY, "policy", {"loss": 0.4}, {"stage": "sft", "inputs": {}}))
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
    lines = 0
    while store.recover(KEY) is None:  # kill ever later, until manifest and files are there
        fill(store)
        killed_after(lines, lambda: store.commit(KEY, "policy", {}, {"stage": "sft", "inputs": {}}))
        out = store.inside / "work" / KEY / "out"
        if (out / "manifest.json").exists():
            break
        lines += 1
    (out / "records.jsonl").chmod(0o644)
    (out / "records.jsonl").write_text("")
    assert store.recover(KEY) is None
    fill(store)
    (out / "manifest.json").write_text(f'{{"kind": "policy", "key": "{KEY}", "metrics": {{}}}}')  # a stage's own
    assert store.recover(KEY) is None


def test_the_memory_of_the_last_run_is_old_or_new_after_any_kill(store: Store, no_sync) -> None:
    old, new = ({"sft": {"key": name, "parts": {}}} for name in "ab")
    lines, kill = 0, True
    while kill:
        store.remember("zephyr", old)
        kill = killed_after(lines, lambda: store.remember("zephyr", new))
        assert store.last("zephyr") in (old, new)
        lines += 1
    assert store.last("zephyr") == new


def test_a_deletion_killed_at_any_line_leaves_all_or_nothing(store: Store, no_sync) -> None:
    lines, kill = 0, True
    while kill:
        artifact = make(store)
        kill = killed_after(lines, lambda path=artifact.path: store.discard(path))
        found = store.find(KEY)
        assert found is None or found.damage() == []
        lines += 1
    assert lines > 5
    assert {why for _, _, why in store.collect()} == {"half deleted"}


def test_a_cache_entry_killed_at_any_line_is_whole_or_absent(store: Store, no_sync) -> None:
    def two_files(folder: Path) -> None:
        (folder / "a").write_text("1")
        (folder / "b").write_text("2")

    lines, kill = 0, True
    while kill:
        kill = killed_after(lines, lambda: store.cached("tokens", "k", two_files))
        folder = store.inside / "cache" / "tokens" / "k"
        if folder.exists():
            assert sorted(p.name for p in folder.iterdir()) == ["a", "b"]
        assert store.cached("tokens", "k", two_files) == folder
        store.discard(folder)
        lines += 1
    assert lines > 15


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


def test_a_workspace_keeps_checkpoints_and_empties_out(store: Store) -> None:
    fill(store)
    (store.inside / "work" / KEY / "checkpoint").write_text("step 3")
    work = store.workspace(KEY)
    assert (work / "checkpoint").read_text() == "step 3"
    assert list((work / "out").iterdir()) == []


def test_addresses(store: Store, tmp_path: Path) -> None:
    first, second = make(store, "a1" * 16), make(store, "a2" * 16)
    store.link("zephyr", "sft", first)
    store.link("zephyr", "dpo", second)
    assert store.get("zephyr/sft") == first
    assert store.get("a2") == second
    assert store.get(str(first.path)) == first
    assert store.get(str(store.root / "zephyr" / "dpo")) == second
    with pytest.raises(StoreError, match="2 artifacts begin so"):
        store.get("a")
    with pytest.raises(StoreError, match="Did you mean 'zephyr/sft'"):
        store.get("zephyr/sfft")
    store.discard(second.path)
    with pytest.raises(StoreError, match="was deleted"):
        store.get("zephyr/dpo")


def test_a_link_moves_to_the_new_artifact_at_any_kill(store: Store, no_sync) -> None:
    old, new = make(store, "a1" * 16), make(store, "a2" * 16)
    lines, kill = 0, True
    while kill:
        store.link("zephyr", "sft", old)
        kill = killed_after(lines, lambda: store.link("zephyr", "sft", new))
        assert store.get("zephyr/sft") in (old, new)
        lines += 1
    assert store.get("zephyr/sft") == new
    assert [str(p.name) for p in store._links()] == ["sft"]


def test_lineage_is_a_tree_down_to_outside_inputs(store: Store) -> None:
    make(store, "a1" * 16, "sft", policy="base-hash")
    make(store, "a2" * 16, "reward_model", policy="a1" * 16)
    top = make(store, "a3" * 16, "dpo", policy="a1" * 16, reward="a2" * 16)
    tree = store.lineage(top)
    assert [(a.field, a.artifact and a.artifact.key[:2]) for a in tree.inputs] == [("policy", "a1"), ("reward", "a2")]
    base = tree.inputs[1].inputs[0].inputs[0]
    assert (base.name, base.key, base.artifact, base.inputs) == ("policy", "base-hash", None, ())


def test_collect_spares_what_a_last_run_leads_to(store: Store) -> None:
    keys = {name: sha256_of(name)[:32] for name in ("sft", "dpo", "old", "kept", "later", "cut")}
    make(store, keys["sft"])
    store.link("zephyr", "dpo", make(store, keys["dpo"], policy=keys["sft"]))
    old, _ = make(store, keys["old"]), make(store, keys["kept"])
    store.workspace(keys["later"])
    cut = store.workspace(keys["cut"])
    store.remember("zephyr", {"ppo": {"key": keys["later"]}})
    used, unused = (store.cached("tokens", name, lambda folder: None) for name in ("used", "unused"))
    os.utime(unused, (0, 0))
    waste = store.collect(keep=[keys["kept"]])
    assert {w.path for w in waste} == {old.path, cut, unused}
    assert {w.bytes for w in waste if w.path == old.path} == {3003 + (old.path / "manifest.json").stat().st_size}
    assert used.exists() and unused.exists()
    assert store.last("zephyr") == {"ppo": {"key": keys["later"]}} and store.last("other") == {}


def test_collect_leaves_alone_what_another_process_makes(store: Store) -> None:
    cut = store.workspace(KEY)
    with store.lock(KEY):
        assert store.collect() == []
        assert not store.remove(cut)
    assert [w.path for w in store.collect()] == [cut]
    store.remember("zephyr", {"ppo": {"key": KEY}})
    store.remember("zephyr", {"sft": {"key": "other"}})
    assert not store.remove(cut)  # a run has begun meanwhile
    store.discard(store.root / "zephyr")
    assert store.remove(cut) and not cut.exists()


def test_the_hash_of_a_file_is_remembered_until_the_file_changes(store: Store, tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("{}\n")
    os.utime(file, (1e9, 1e9))
    known = store.hash_of(file)
    assert known == "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"
    with monkeypatch.context() as patch:
        patch.setattr(align.disk, "sha256_of_file", lambda path: pytest.fail("read again"))
        assert Store(store.root).hash_of(file) == known
    file.write_text("[]\n")
    assert store.hash_of(file) != known


def test_while_a_folder_is_hashed_others_may_write_and_a_failure_loses_one_file(store, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name)
        os.utime(folder / name, (1e9, 1e9))
    (tmp_path / "other").touch()
    os.utime(tmp_path / "other", (1e9, 1e9))
    read: list[str] = []

    def slowly(path: Path) -> str:
        read.append(path.name)
        if read == ["a", "b"]:
            before = time.monotonic()
            store.hash_of(tmp_path / "other")
            assert time.monotonic() - before < 30
            raise KeyboardInterrupt
        return sha256_of(path.name)

    monkeypatch.setattr(align.disk, "sha256_of_file", slowly)
    with pytest.raises(KeyboardInterrupt):
        store.hash_of(folder)
    store.hash_of(folder)
    assert read == ["a", "b", "other", "b"]


def test_a_file_changed_in_the_same_instant_is_read_again(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("{}\n")
    known, stamp = store.hash_of(file), file.stat()
    file.write_text("[]\n")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert store.hash_of(file) != known


def test_the_hash_of_a_folder_covers_names_and_contents_but_not_hidden_files(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "weights").write_text("1")
    known = store.hash_of(folder)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "stamp").write_text("now")
    assert store.hash_of(folder) == known
    (folder / "sub" / "weights").rename(folder / "weights")
    moved = store.hash_of(folder)
    (folder / "weights").write_text("2")
    assert len({known, moved, store.hash_of(folder)}) == 3
    with pytest.raises(StoreError, match="no such file"):
        store.hash_of(tmp_path / "absent")
