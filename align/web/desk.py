"""Whose turn is what: a poll, over items that are there, or a chat, which makes them as people talk.

Both are blind: replies come in an order drawn from the seed, the person and the item, and no source is ever told.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, field_validator

from align.config import Sampling
from align.errors import CheckError
from align.records import Message, Messages, prompt_id
from align.stage import seed_of
from align.web.items import Item, Reply, merged
from align.web.votes import Log, Vote

if TYPE_CHECKING:
    from align.generate.base import Generator


class Person(BaseModel):
    """Who acts."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    annotator: str = Field(min_length=1, max_length=64)

    @field_validator("annotator")
    @classmethod
    def _printable(cls, name: str) -> str:
        if not name.isprintable():
            raise ValueError("a name is printable")
        return name


class Ballot(Person):
    """A vote as the page sends it: places and numbers are those on the screen."""

    item: str
    ranks: tuple[int, ...] | None = None
    correction: str | None = None
    corrects: int | None = None
    flagged: bool = False
    comment: str = Field("", max_length=10_000)
    seconds: float = Field(0.0, ge=0, allow_inf_nan=False)


class Desk(ABC):
    """Shows people items, one by one, and takes their votes."""

    total: int | None = None
    """Items that there are, where that is known."""
    known: Set[str] | None = None
    """Their ids; a log may hold votes on others."""

    def __init__(self, log: Log, seed: int):
        self.log, self.seed = log, seed

    @abstractmethod
    def pending(self, annotator: str) -> Item | None:
        """What this person is to vote on."""

    def done(self, annotator: str) -> int:
        """How many items this person has voted on."""
        votes = self.log.votes.get(annotator, {}).keys()
        return len(votes if self.known is None else self.known & votes)

    def conversation(self, annotator: str) -> Messages:
        """What was said so far, where nothing is to be voted on."""
        return ()

    def shown(self, annotator: str, item: Item) -> tuple[int, ...]:
        """The order of an item's replies on this person's screen."""
        order = list(range(len(item.replies)))
        random.Random(seed_of(self.seed, "shown", annotator, item.id)).shuffle(order)
        return tuple(order)

    def vote(self, ballot: Ballot) -> Vote:
        """Takes the vote on the pending item; when this returns, it is on disk. Raises CheckError on another item."""
        item = self.pending(ballot.annotator)
        if item is None or item.id != ballot.item:
            raise CheckError("this item was voted on already; the page shows the next one")
        shown = self.shown(ballot.annotator, item)
        ranks, corrects = ballot.ranks, ballot.corrects
        if ranks is not None and len(ranks) != len(shown):
            raise CheckError(f"{len(ranks)} ranks for {len(shown)} replies")
        if corrects is not None and not 0 <= corrects < len(shown):
            raise CheckError(f"there is no reply {corrects + 1} to be corrected")
        if ranks is not None:
            ranks = tuple(ranks[shown.index(i)] for i in sorted(shown))
        if corrects is not None:
            corrects = shown[corrects]
            written = "\n".join(message.content for message in item.replies[corrects].messages)
            if (ballot.correction or "").strip() == written.strip():
                raise CheckError("the correction is the reply as it was")
        said = ballot.model_dump(include={"annotator", "correction", "flagged", "comment", "seconds"})
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made = Vote(**said, item=item, shown=shown, ranks=ranks, corrects=corrects, time=now)
        self.log.add(made)
        self._voted(made)
        return made

    def undo(self, annotator: str) -> Vote | None:
        """Takes back this person's last vote, whose item is pending again."""
        taken = self.log.undo(annotator, self.known)
        if taken is not None:
            self._taken_back(taken)
        return taken

    @abstractmethod
    def _voted(self, vote: Vote) -> None:
        """What follows from a vote."""

    @abstractmethod
    def _taken_back(self, vote: Vote) -> None:
        """What follows from an undo."""


class Poll(Desk):
    """Fixed items, in an order of each person's own."""

    def __init__(self, items: Sequence[Item], log: Log, seed: int):
        super().__init__(log, seed)
        self.items = items
        self.total = len(items)
        self._orders: dict[str, list[Item]] = {}
        self.known = {item.id for item in items}

    def pending(self, annotator: str) -> Item | None:
        votes = self.log.votes.get(annotator, {})
        return next((item for item in self._order(annotator) if item.id not in votes), None)

    def _order(self, annotator: str) -> list[Item]:
        if annotator not in self._orders:
            order = list(self.items)
            random.Random(seed_of(self.seed, "order", annotator)).shuffle(order)
            self._orders[annotator] = order
        return self._orders[annotator]

    def _voted(self, vote: Vote) -> None:
        """Nothing: what is pending follows from the log."""

    def _taken_back(self, vote: Vote) -> None:
        # The vote may have been cast in another order, in a log from elsewhere; what is taken back comes first.
        order = self._order(vote.annotator)
        order.sort(key=lambda item: item.id != vote.item.id)


@dataclass
class _Talk:
    said: Messages = ()
    item: Item | None = None


class Chat(Desk):
    """Conversations with one contestant or two, which go on with the reply that was preferred."""

    def __init__(self, contestants: Mapping[str, Generator], sampling: Sampling, log: Log, seed: int,
                 system: str | None = None):  # fmt: skip
        super().__init__(log, seed)
        self.contestants, self.sampling = contestants, sampling
        self._first = (Message("system", system),) if system else ()
        self._talks: dict[str, _Talk] = {}
        self._asked = 0

    def pending(self, annotator: str) -> Item | None:
        return self._talk(annotator).item

    def conversation(self, annotator: str) -> Messages:
        return self._talk(annotator).said

    def say(self, annotator: str, text: str) -> Item:
        """Has every contestant answer; a single reply that nobody voted on counts as accepted."""
        talk = self._talk(annotator)
        said = talk.said
        if talk.item is not None:
            reply, *others = talk.item.replies
            if others:
                raise CheckError("first say which of the replies is better")
            said = (*talk.item.prompt, *reply.messages)
        talk.item = self._answered((*said, Message("user", text)))
        return talk.item

    def restart(self, annotator: str) -> None:
        """Begins another conversation."""
        self._talks[annotator] = _Talk(self._first)

    def _talk(self, annotator: str) -> _Talk:
        return self._talks.setdefault(annotator, _Talk(self._first))

    def _answered(self, prompt: Messages) -> Item:
        self._asked += 1
        replies: list[Reply] = []
        for name, contestant in self.contestants.items():
            [made] = contestant.generate([prompt], self.sampling, seed_of(self.seed, "chat", self._asked, name))
            replies.append(Reply((Message("assistant", made.text),), (name,), made.finish == "length"))
        return Item(prompt, merged(replies), prompt_id(prompt))

    def _voted(self, vote: Vote) -> None:
        self._talks[vote.annotator] = _Talk((*vote.item.prompt, *vote.preferred))

    def _taken_back(self, vote: Vote) -> None:
        self._talks[vote.annotator] = _Talk((), vote.item)
