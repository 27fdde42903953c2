"""Records: the frozen, typed rows that lie on disk between stages.

Five kinds for alignment and one for raw text. Each has `row()` (a plain dict for JSON lines) and `from_row()`
(its inverse). Columns that no field names travel in `extra`: kept, shown, never silently used.

A prompt is a tuple of messages. Where a task has no chat at all (continue this story), the prompt is one user
message and the model's template is `raw`, which writes contents and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from align.errors import DataError

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(f"a message has role {self.role!r}; roles are {', '.join(ROLES)}")
        if not isinstance(self.content, str):
            raise DataError(f"a {self.role} message has content of type {type(self.content).__name__}, not text")

    def row(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


Messages = tuple[Message, ...]


def messages(turns: Iterable[Mapping[str, Any] | Message]) -> Messages:
    """Messages from dicts with `role` and `content`."""
    made = []
    for turn in turns:
        if isinstance(turn, Message):
            made.append(turn)
            continue
        if not isinstance(turn, Mapping) or "role" not in turn or "content" not in turn:
            raise DataError(f"a message needs 'role' and 'content', found {turn!r:.80}")
        made.append(Message(turn["role"], turn["content"]))
    return tuple(made)


def prompt_id(prompt: Messages) -> str:
    """Sixteen hex digits that name a prompt by its content, so that comparisons pair rows and splits stay stable."""
    text = json.dumps([(m.role, m.content) for m in prompt], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Record:
    """What every record has; use one of its kinds."""

    kind: ClassVar[str]
    message_fields: ClassVar[tuple[str, ...]] = ()

    def row(self) -> dict[str, Any]:
        """A plain dict, with `kind` in it, that `json.dumps` accepts. Fields at their default are left out."""
        made: dict[str, Any] = {"kind": self.kind}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in self.message_fields:
                made[f.name] = [m.row() for m in value]
            elif value == f.default or (f.default_factory is dict and not value):
                continue
            else:
                made[f.name] = list(value) if isinstance(value, tuple) else value
        return made

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The inverse of `row()`. Raises DataError on a missing or unknown column."""
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in row.items() if k != "kind"}
        unknown = sorted(values.keys() - known)
        if unknown:
            columns = ", ".join(sorted(known))
            raise DataError(f"not a {cls.__name__}: unknown column {unknown[0]!r} (columns: {columns})")
        for name in cls.message_fields:
            if name not in values:
                raise DataError(f"not a {cls.__name__}: {name!r} is missing (columns here: {', '.join(values)})")
            values[name] = messages(values[name])
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@dataclass(frozen=True, slots=True)
class Text(Record):
    """Raw text for pretraining and perplexity."""

    kind: ClassVar[str] = "text"
    id: str
    text: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prompt(Record):
    """Something to be answered: messages that end before the assistant speaks."""

    kind: ClassVar[str] = "prompt"
    message_fields: ClassVar[tuple[str, ...]] = ("prompt",)
    id: str
    prompt: Messages
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Demonstration(Record):
    """A conversation to imitate. `supervised` names the messages that carry loss; None means every assistant turn."""

    kind: ClassVar[str] = "demonstration"
    message_fields: ClassVar[tuple[str, ...]] = ("messages",)
    id: str
    messages: Messages
    supervised: tuple[int, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preference(Record):
    """Two replies to one prompt, the better one first.

    `label` is the probability that `chosen` is really better, 0.5-1 (a soft label); `margin` is by how much, in the
    units of the source's scores; `weight` scales the pair's loss. `unfinished` names the replies that were cut at a
    token limit: no stop id is put after them, for the model would learn to stop in mid-sentence.
    """

    kind: ClassVar[str] = "preference"
    message_fields: ClassVar[tuple[str, ...]] = ("prompt", "chosen", "rejected")
    id: str
    prompt: Messages
    chosen: Messages
    rejected: Messages
    margin: float | None = None
    label: float = 1.0
    weight: float = 1.0
    unfinished: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.label <= 1:
            raise DataError(f"label is {self.label}; it is the probability that the chosen reply is better, 0-1")


@dataclass(frozen=True, slots=True)
class Rated(Record):
    """One reply with a score; a thumb is a score of 1 (up) or 0 (down)."""

    kind: ClassVar[str] = "rated"
    message_fields: ClassVar[tuple[str, ...]] = ("prompt", "reply")
    id: str
    prompt: Messages
    reply: Messages
    score: float
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample(Record):
    """A reply that a policy wrote.

    `finish` is `stop` (a stop id was sampled) or `length` (the token limit was reached). `logp` is the sum of the
    sampled tokens' log-probabilities in nats under the sampling distribution; `tokens` counts them, stop id included.
    `id` is the prompt's id; `index` tells the replies to one prompt apart.
    """

    kind: ClassVar[str] = "sample"
    message_fields: ClassVar[tuple[str, ...]] = ("prompt",)
    id: str
    prompt: Messages
    reply: str
    policy: str
    index: int = 0
    finish: str = "stop"
    tokens: int = 0
    logp: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


RECORDS: dict[str, type[Record]] = {r.kind: r for r in (Text, Prompt, Demonstration, Preference, Rated, Sample)}


def from_row(row: Mapping[str, Any]) -> Record:
    """A record from a row written by `row()`, whose `kind` says which."""
    kind = row.get("kind")
    if kind not in RECORDS:
        raise DataError(f"unknown record kind {kind!r}; kinds are {', '.join(RECORDS)}")
    return RECORDS[kind].from_row(row)
