"""Votes, and the log that keeps them.

`votes.jsonl` is written forwards only: one line an act, `{"vote": {...}}` or `{"undo": {...}}`, on disk before anybody
sees the next item. A vote holds what was shown as well as what was said, so a log needs no other file, and two logs
written one after the other are one. A line that a kill left unfinished was never confirmed to anybody; it is dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from align.disk import sync
from align.errors import CheckError, DataError
from align.records import Message, Messages
from align.web.items import Item


@dataclass(frozen=True)
class Vote:
    """What one person said of one item; neither ranks nor a correction means that it was skipped."""

    annotator: str
    item: Item
    shown: tuple[int, ...]
    """The order on the screen: indices of the item's replies."""
    ranks: tuple[int, ...] | None = None
    """Place of each of the item's replies, 0 for the best, equal in a tie. One reply at place 0 is approved."""
    correction: str | None = None
    """The reply that should have been."""
    corrects: int | None = None
    """Index of the reply that the correction is better than; None where there was none."""
    flagged: bool = False
    """Unfit for training, whatever the votes say."""
    comment: str = ""
    seconds: float = 0.0
    """From seeing the item to voting on it."""
    time: str = ""
    """When it was cast, UTC."""

    def __post_init__(self) -> None:
        count = len(self.item.replies)
        if sorted(self.shown) != list(range(count)):
            raise DataError(f"shown is {self.shown}; the item has {count} replies")
        if self.ranks is not None and (len(self.ranks) != count or not count):
            raise DataError(f"{len(self.ranks)} ranks for {count} replies")
        if self.correction is not None and not self.correction.strip():
            raise DataError("the correction is empty")
        if self.correction is not None and (self.corrects is None) != (count == 0):
            raise DataError("a correction says which reply it corrects, where there is one")
        if self.corrects is not None and (self.correction is None or not 0 <= self.corrects < count):
            raise DataError(f"corrects is {self.corrects}; the item has {count} replies")

    @property
    def preferred(self) -> Messages:
        """How the conversation goes on: the correction, the best reply, of equals the one shown first."""
        if self.correction is not None:
            return (Message("assistant", self.correction),)
        ranks = self.ranks or (0,) * len(self.item.replies)
        return self.item.replies[min(self.shown, key=lambda i: ranks[i])].messages

    def row(self) -> dict[str, Any]:
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}
        return given | {"item": self.item.row()}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        lists = {name: tuple(row[name]) for name in ("shown", "ranks") if name in row}
        return cls(**{**row, **lists, "item": Item.from_row(row["item"])})


class Log:
    """The log at a path and the votes in it that stand. One process has it at a time."""

    def __init__(self, path: Path):
        self.path = path
        self.votes: dict[str, dict[str, Vote]] = {}
        """annotator -> item id -> vote, in the order in which they were cast."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise CheckError(f"{path}: another page is open on these votes; close it, or vote elsewhere") from None
        sync(path.parent)
        self._read()

    def add(self, vote: Vote) -> None:
        """Writes a vote; when this returns, it is on disk."""
        self._append({"vote": vote.row()})
        self._take(vote)

    def undo(self, annotator: str, among: Container[str] | None = None) -> Vote | None:
        """Takes back a person's last vote, of those on the items `among`, and returns it; None where there is none."""
        votes = self.votes.get(annotator, {})
        last = next((item for item in reversed(votes) if among is None or item in among), None)
        if last is None:
            return None
        self._append({"undo": {"annotator": annotator, "item": last}})
        return votes.pop(last)

    def standing(self) -> list[Vote]:
        """All votes that were not taken back, person by person."""
        return [vote for votes in self.votes.values() for vote in votes.values()]

    def close(self) -> None:
        """Lets another process have the log."""
        os.close(self._file)

    def _take(self, vote: Vote) -> None:
        votes = self.votes.setdefault(vote.annotator, {})
        votes.pop(vote.item.id, None)
        votes[vote.item.id] = vote

    def _append(self, act: dict[str, Any]) -> None:
        line = json.dumps(act, ensure_ascii=False).encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError:
            # What was not confirmed must not stay, or it would count, or glue itself to the next line.
            os.ftruncate(self._file, size)
            raise

    def _read(self) -> None:
        whole, newline, torn = self.path.read_bytes().rpartition(b"\n")
        if torn:
            os.ftruncate(self._file, len(whole + newline))
        for number, line in enumerate(whole.split(b"\n") if newline else (), 1):
            try:
                act = json.loads(line)
                if "vote" in act:
                    self._take(Vote.from_row(act["vote"]))
                else:
                    self.votes.get(act["undo"]["annotator"], {}).pop(act["undo"]["item"], None)
            except (ValueError, KeyError, TypeError, DataError) as error:
                raise DataError(f"{self.path}:{number}: not a vote: {error}") from None
