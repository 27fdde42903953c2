"""Contents of files and folders, read once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import align.disk
import align.store
from align.disk import sha256_of
from align.errors import StoreError
from align.store import Store


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


def test_a_damaged_memory_of_hashes_is_made_anew(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("{}\n")
    os.utime(file, (1e9, 1e9))
    known = store.hash_of(file)
    (store.inside / "hashes.sqlite").write_text("no database, and longer than the head of one has to be: " * 20)
    assert store.hash_of(file) == store.hash_of(file) == known


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
