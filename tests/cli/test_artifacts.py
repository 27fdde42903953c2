"""`align history` and `align gc` over a store that two runs left."""

from __future__ import annotations

import pytest


@pytest.fixture
def ran(align):
    align("run", "toy")
    return align


def test_history_lists_what_was_made(ran):
    out = ran("history").out
    assert [line.split()[0] for line in out.splitlines()] == ["artifact", "toy/a", "toy/b", "toy/c"]
    assert "steps 4" in out


def test_history_keeps_names_and_keys_whole_where_room_is_scarce(ran, monkeypatch):
    monkeypatch.setenv("COLUMNS", "67")
    head, first, *_ = ran("history").out.splitlines()
    name, kind, key, day, hour, took, *metrics = first.split()
    assert (name, kind, len(key), len(day), len(hour), took) == ("toy/a", "records", 12, 10, 5, "0s")
    assert "took" in head and metrics == ["steps", "3"]


def test_history_of_an_artifact_is_its_lineage(ran):
    first, second = ran("history", "toy/b").out.splitlines()
    assert first.startswith("b  records ")
    assert second.startswith("└── after: a  records ")


def test_a_key_prefix_is_an_address(ran):
    key = ran("history", "toy/b").out.split()[2]
    assert ran("history", key[:6]).out == ran("history", "toy/b").out


def test_a_wrong_address_is_a_wrong_command(ran):
    wrong = ran("history", "toy/bb")
    assert wrong.code == 2
    assert "toy/b" in wrong.err


def test_gc_shows_first_and_deletes_when_told(ran, tmp_path):
    assert ran("gc").out == "nothing to delete\n"
    ran("run", "toy", "c.steps=1")
    shown = ran("gc").out.splitlines()
    assert len(shown) == 2
    assert "artifacts/" in shown[0]
    assert shown[1].endswith("can be freed: align gc --delete")
    assert len(list((tmp_path / "runs" / ".store" / "artifacts").iterdir())) == 4
    assert ran("gc", "--delete").out.splitlines()[-1].endswith(" freed")
    assert len(list((tmp_path / "runs" / ".store" / "artifacts").iterdir())) == 3
    assert ran("run", "toy", "c.steps=1").out.splitlines()[-1] == "runs/toy: 3 cached"
