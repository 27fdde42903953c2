"""Records as rows of the dataset columns that TRL's trainers take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from align.data.convert import supervised
from align.errors import CheckError
from align.records import Demonstration, Messages, Preference, Prompt, Rated, Record

Format = Literal["messages", "prompt-completion", "prompt-chosen-rejected", "unpaired", "prompt"]
READS: dict[str, type[Record]] = {
    "messages": Demonstration,
    "prompt-completion": Demonstration,
    "prompt-chosen-rejected": Preference,
    "unpaired": Rated,
    "prompt": Prompt,
}
"""The kind of records that each set of columns is made of."""


def whole(record: Record) -> Record:
    """The record as one that trees can be made of. Raises CheckError for what TRL would leave out in silence."""
    if isinstance(record, Preference):
        if record.label != 1 or record.weight != 1:
            raise CheckError(f"TRL takes no soft or weighted labels; pair {record.id} has one. Use `stage: dpo`")
        if record.unfinished:
            raise CheckError(
                f"pair {record.id} has a reply that was cut at a token limit, and TRL would train a stop after it. "
                "Use `stage: dpo`, or `unfinished: drop` where the pairs are made"
            )
    if isinstance(record, Rated):
        if record.score not in (0, 1):
            raise CheckError(f"unpaired rows need thumbs, 1 or 0; the score of {record.id} is {record.score:g}")
        turns = record.prompt + record.reply
        spoken = tuple(i for i in range(len(record.prompt), len(turns)) if turns[i].role == "assistant")
        return Demonstration(record.id, turns, spoken, {"label": bool(record.score)})
    return record


def columns(record: Record, shape: str) -> Iterator[dict[str, Any]]:
    """A record as rows of TRL's dataset columns; a conversation with several supervised turns makes a row for each."""
    match record:
        case Preference():
            parts = {"prompt": record.prompt, "chosen": record.chosen, "rejected": record.rejected}
            yield {name: _plain(turns) for name, turns in parts.items()}
        case Prompt():
            yield {"prompt": _plain(record.prompt), "id": record.id, "extra": json.dumps(record.extra, default=str)}
        case Demonstration() if shape == "messages":
            yield {"messages": _plain(record.messages)}
        case Demonstration() if shape == "unpaired":
            start = supervised(record)[0]
            turns = {"prompt": record.messages[:start], "completion": record.messages[start:]}
            yield {name: _plain(part) for name, part in turns.items()} | {"label": record.extra["label"]}
        case Demonstration():
            for i in supervised(record):
                yield {"prompt": _plain(record.messages[:i]), "completion": _plain(record.messages[i : i + 1])}


def _plain(turns: Messages) -> list[dict[str, str]]:
    return [turn.row() for turn in turns]
