"""What can be deleted, and what cannot."""

from __future__ import annotations

import os

from align.disk import sha256_of
from align.store import Store
from tests.store.conftest import KEY, make


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
