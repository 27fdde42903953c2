"""What people are asked about: a prompt and its replies, without a word on who wrote them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

from align.data import read_file
from align.data.convert import prompt_of, supervised
from align.disk import sha256_of
from align.errors import DataError
from align.records import Demonstration, Message, Messages, Preference, Prompt, Rated, Record, Sample, messages
from align.stage import seed_of


@dataclass(frozen=True)
class Reply:
    """A reply and all who gave it."""

    messages: Messages
    sources: tuple[str, ...] = ()
    """Policies, or `chosen` and `rejected` where a preference is voted on again."""
    unfinished: bool = False
    """Cut at a token limit."""

    def row(self) -> dict[str, Any]:
        return {
            "messages": [m.row() for m in self.messages],
            "sources": list(self.sources),
            "unfinished": self.unfinished,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        return cls(messages(row["messages"]), tuple(row["sources"]), row["unfinished"])


@dataclass(frozen=True)
class Item:
    """A prompt with no reply (to be written), one (to be approved or corrected), or several (to be ranked)."""

    prompt: Messages
    replies: tuple[Reply, ...]
    record: str
    """Id of the records that are made of it."""

    @cached_property
    def id(self) -> str:
        """Names what people read, whoever wrote it."""
        read = [[m.row() for m in turns] for turns in (self.prompt, *(reply.messages for reply in self.replies))]
        return sha256_of(read)[:16]

    def row(self) -> dict[str, Any]:
        return {
            "prompt": [m.row() for m in self.prompt],
            "replies": [reply.row() for reply in self.replies],
            "record": self.record,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        return cls(messages(row["prompt"]), tuple(map(Reply.from_row, row["replies"])), row["record"])


def items_of(records: Iterable[Record]) -> list[Item]:
    """Items of records, in their order; all replies that samples and ratings give to one prompt are one item.

    Each preference is an item of its own. Equal replies are one reply with several sources.
    """
    asked: dict[Any, tuple[Messages, str, list[Reply]]] = {}
    for number, record in enumerate(records):
        prompt, replies = _parts(record)
        key = number if isinstance(record, Preference) else prompt
        asked.setdefault(key, (prompt, record.id, []))[2].extend(replies)  # type: ignore[attr-defined]
    made = (Item(prompt, merged(replies), id) for prompt, id, replies in asked.values())
    return list({item.id: item for item in made}.values())


def items_of_comparison(folder: Path) -> list[Item]:
    """Items of the replies that a comparison keeps: one for every prompt and reply number, with one reply a policy."""
    files = sorted((folder / "replies").glob("*.jsonl"))
    if not files:
        raise DataError(f"{folder}: a comparison without replies/*.jsonl; `align compare ... --out DIR` keeps them")
    asked: dict[tuple[Messages, int], tuple[str, list[Reply]]] = {}
    for file in files:
        for sample in cast(Iterable[Sample], read_file(file)):
            found = asked.setdefault((sample.prompt, sample.index), (sample.id, []))
            found[1].append(_sampled(sample, file.stem))
    made = (Item(prompt, merged(replies), id) for (prompt, _), (id, replies) in asked.items())
    return list({item.id: item for item in made}.values())


def merged(replies: Sequence[Reply]) -> tuple[Reply, ...]:
    """Equal replies as one: people cannot tell them apart."""
    made: dict[Messages, Reply] = {}
    for reply in replies:
        known = made.get(reply.messages)
        sources = reply.sources if known is None else tuple(dict.fromkeys(known.sources + reply.sources))
        made[reply.messages] = replace(known or reply, sources=sources)
    return tuple(made.values())


def at_most(item: Item, replies: int, seed: int) -> Item:
    """The item with so many of its replies, drawn by the seed and what they say."""
    if len(item.replies) <= replies:
        return item
    chosen = random.Random(seed_of(seed, "replies", item.id)).sample(range(len(item.replies)), replies)
    return replace(item, replies=tuple(item.replies[i] for i in sorted(chosen)))


def _parts(record: Record) -> tuple[Messages, list[Reply]]:
    """What is answered, and the replies."""
    prompt = prompt_of(record)
    if not prompt:
        raise DataError(f"people vote on replies to prompts; a {type(record).__name__} without a prompt has none")
    match record:
        case Preference():
            pair = {"chosen": record.chosen, "rejected": record.rejected}
            return prompt, [Reply(said, (name,), name in record.unfinished) for name, said in pair.items()]
        case Rated():
            return prompt, [Reply(record.reply)]
        case Demonstration():
            last = supervised(record)[-1]
            return prompt, [Reply(record.messages[last : last + 1])]
        case Sample():
            return prompt, [_sampled(record, record.policy)]
    assert isinstance(record, Prompt)
    return prompt, []


def _sampled(sample: Sample, policy: str) -> Reply:
    return Reply((Message("assistant", sample.reply),), (policy,), sample.finish == "length")
