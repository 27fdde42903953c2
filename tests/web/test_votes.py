"""The log: what was confirmed stays, what was not is not there."""

from __future__ import annotations

import errno
import os

import pytest

from align.errors import CheckError, DataError
from align.web.votes import Log, Vote
from tests.web.conftest import item

PAIR, OTHER = item("a?", "x", "y"), item("b?", "x", "y")


def vote(on=PAIR, by="ann", **more) -> Vote:
    return Vote(by, on, (1, 0), **({"ranks": (0, 1)} | more))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "votes.jsonl"


def reopened(log: Log) -> Log:
    log.close()
    return Log(log.path)


def test_a_vote_is_read_again_as_it_was(path):
    log = Log(path)
    cast = [
        vote(comment='"quoted"\n', flagged=True, seconds=1.5, time="2026-11-24T10:00:00+00:00"),
        vote(OTHER, ranks=None, correction="better", corrects=0),
        vote(by="bob", ranks=(1, 1)),
    ]
    for one in cast:
        log.add(one)
    assert reopened(log).standing() == cast


def test_undo_takes_back_one_persons_last_vote(path):
    log = Log(path)
    for one in (vote(), vote(OTHER), vote(by="bob")):
        log.add(one)
    assert log.undo("ann") == vote(OTHER)
    log = reopened(log)
    assert log.standing() == [vote(), vote(by="bob")]
    assert log.undo("ann") == vote()
    assert log.undo("ann") is None
    assert reopened(log).standing() == [vote(by="bob")]


@pytest.mark.parametrize("torn", [b'{"vote": {"annot', b'{"vote": {}}', b"\xff"])
def test_a_line_without_an_end_is_dropped(path, torn):
    log = Log(path)
    log.add(vote())
    log.close()
    with path.open("ab") as file:
        file.write(torn)
    log = Log(path)
    log.add(vote(OTHER))
    assert reopened(log).standing() == [vote(), vote(OTHER)]


def test_a_log_that_is_nothing_but_a_torn_line_is_empty(path):
    path.parent.mkdir()
    path.write_bytes(b'{"vote')
    log = Log(path)
    log.add(vote())
    assert reopened(log).standing() == [vote()]


def test_a_broken_line_elsewhere_is_an_error_with_its_place(path):
    log = Log(path)
    log.add(vote())
    log.close()
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(DataError, match=r"votes.jsonl:1: not a vote"):
        Log(path)


def test_a_vote_that_could_not_be_written_is_not_there(path, monkeypatch):
    log = Log(path)
    log.add(vote())
    real = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) > 20:
            return real(file, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("align.web.votes.os.write", lambda file, data: full(file, data[:40]))
    with pytest.raises(OSError, match="No space"):
        log.add(vote(OTHER))
    monkeypatch.undo()
    assert log.standing() == [vote()]
    log.add(vote(by="bob"))
    assert reopened(log).standing() == [vote(), vote(by="bob")]


def test_a_log_has_one_owner(path):
    log = Log(path)
    with pytest.raises(CheckError, match="another page is open"):
        Log(path)
    log.close()
    Log(path).close()


def test_two_logs_written_one_after_the_other_are_one(path, tmp_path):
    one, two = Log(path), Log(tmp_path / "two.jsonl")
    one.add(vote())
    two.add(vote(by="bob"))
    both = tmp_path / "both.jsonl"
    both.write_bytes(one.path.read_bytes() + two.path.read_bytes())
    assert Log(both).standing() == [vote(), vote(by="bob")]


@pytest.mark.parametrize(
    "wrong",
    [{"ranks": (0,)}, {"correction": " ", "corrects": 0}, {"correction": "x"}, {"corrects": 0},
     {"correction": "x", "corrects": 2}],
)  # fmt: skip
def test_a_vote_fits_its_item(wrong):
    with pytest.raises(DataError):
        vote(**wrong)


def test_a_conversation_goes_on_with_what_was_preferred():
    assert vote().preferred[0].content == "x"
    assert vote(ranks=(1, 0)).preferred[0].content == "y"
    assert vote(ranks=(0, 0)).preferred[0].content == "y"  # shown first
    assert vote(ranks=None, correction="z", corrects=0).preferred[0].content == "z"
