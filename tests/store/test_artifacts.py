"""Artifacts: made, found by any name, damaged, descended."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.errors import StoreError
from align.store import Store
from tests.store.conftest import KEY, fill, make


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


def test_an_artifact_that_lost_a_file_is_none(store: Store) -> None:
    made = make(store)
    store.link("zephyr", "sft", made)
    assert store.lost(KEY) == []
    weights = made.path / "model" / "weights"
    weights.chmod(0o644)
    weights.write_bytes(b"\1" * 2999)
    assert store.find(KEY) is None and store.artifacts() == [] and store.lost(KEY) == ["model/weights"]
    weights.unlink()
    assert store.find(KEY) is None and store.lost(KEY) == ["model/weights"]
    with pytest.raises(StoreError, match=r"model/weights was deleted\. Run the recipe again"):
        store.get("zephyr/sft")
    assert make(store) == store.find(KEY) == store.get("zephyr/sft")


def test_a_damaged_account_of_the_last_run_is_named(store: Store) -> None:
    store.remember("zephyr", {"sft": {"key": KEY}})
    (store.root / "zephyr" / "last.json").write_text('{"sft"')
    for reads in (lambda: store.last("zephyr"), store.collect):  # or gc would take it that nothing is wanted
        with pytest.raises(StoreError, match=r"zephyr/last\.json: damaged\. Delete it"):
            reads()


def test_lineage_is_a_tree_down_to_outside_inputs(store: Store) -> None:
    make(store, "a1" * 16, "sft", policy="base-hash")
    make(store, "a2" * 16, "reward_model", policy="a1" * 16)
    top = make(store, "a3" * 16, "dpo", policy="a1" * 16, reward="a2" * 16)
    tree = store.lineage(top)
    assert [(a.field, a.artifact and a.artifact.key[:2]) for a in tree.inputs] == [("policy", "a1"), ("reward", "a2")]
    base = tree.inputs[1].inputs[0].inputs[0]
    assert (base.name, base.key, base.artifact, base.inputs) == ("policy", "base-hash", None, ())
