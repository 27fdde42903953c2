"""Making trees of records: the one place where a stage's rows become token ids.

Every row is checked while it is made. Rows that do not fit are left out and counted, prompts are never cut, and what
would train silently wrong stops the stage with the number of such rows: a template that treats a prompt differently
once a reply follows, a reply that does not end with a stop id, a mask that does not decode to the replies it should be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from align.data.chat import Chat, Piece, Rewritten
from align.data.convert import replies, supervised
from align.data.tree import Reply, Tree
from align.errors import CheckError, DataError
from align.records import Demonstration, Messages, Preference, Record, Text

BATCH = 256


@dataclass
class Dropped:
    """What became of the rows that are not trees as they stand."""

    rows: int = 0
    """Records given."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why rows were left out, and how many."""
    too_long: int = 0
    """Rows left out or truncated because of their length."""
    truncated: int = 0
    """Rows with a reply that was cut at `max_length`; it does not end with a stop id."""
    default_system: int = 0
    """Rows without a system message, where the template writes one of its own."""

    def __str__(self) -> str:
        parts = [f"{count} {why}" for why, count in self.reasons.items()]
        parts += [f"{self.truncated} truncated"] if self.truncated else []
        parts += [f"{self.default_system} with the template's own system message"] if self.default_system else []
        return f"of {self.rows} rows: {', '.join(parts)}" if parts else f"{self.rows} rows, none left out"


@dataclass
class _Draft:
    """A record cut into pieces of text: the prompt's, and each reply's with the turns that are scored."""

    record: Demonstration | Preference
    prompt: list[Piece]
    replies: list[list[Piece]]
    turns: set[int]
    said: list[Messages]
    """Of each reply, the scored messages: its decoded mask must hold them."""

    def pieces(self) -> list[Piece]:
        return [piece for pieces in (self.prompt, *self.replies) for piece in pieces]


def _draft(record: Record, chat: Chat) -> _Draft:
    if isinstance(record, Demonstration):
        turns = set(supervised(record))
        messages = record.messages[: max(turns) + 1]
        if any(messages[i].role != "assistant" for i in turns):
            raise CheckError("'supervised' names a message that is not the assistant's")
        prompt, reply = _split(chat.pieces(messages), min(turns))
        return _Draft(record, prompt, [reply], turns, [tuple(messages[i] for i in sorted(turns))])
    if isinstance(record, Preference):
        start, both = len(record.prompt), (record.chosen, record.rejected)
        (prompt, chosen), (again, rejected) = (_split(chat.pieces(record.prompt + reply), start) for reply in both)
        if prompt != again:
            raise CheckError("the template renders the prompt otherwise for the chosen and the rejected reply")
        turns = set(range(start, start + max(map(len, both))))
        spoken = [tuple(m for m in reply if m.role == "assistant") for reply in both]
        return _Draft(record, prompt, [chosen, rejected], turns, spoken)
    raise DataError(f"a {type(record).__name__} cannot be made a tree; Demonstrations, Preferences and Texts can")


def _split(pieces: list[Piece], turn: int) -> tuple[list[Piece], list[Piece]]:
    """Pieces before and from the first reply that is not before `turn`."""
    first = next(n for n, piece in enumerate(pieces) if piece.turn is not None and piece.turn >= turn)
    return pieces[:first], pieces[first:]


class _Leave(Exception):
    """Why a row is left out; the words follow a number of rows."""


UNSPELLED = "with a reply that the tokenizer cannot spell"
REWRITTEN = "with a reply that the template does not write as it is"
REWRITTEN_LIMIT = 0.1
"""The share of rows that may be left out for that; more, and the template is not made for such replies."""

Masked = tuple[list[int], list[bool]]
"""The ids of a reply and which of them are scored."""


def _masked(chat: Chat, pieces: list[Piece], parts: list[list[int]], turns: set[int], said: Messages) -> Masked:
    """A reply's ids and mask, once it is sure that the mask covers what was said, its end, and nothing else."""
    ids = [i for part in parts for i in part]
    mask = [piece.turn in turns for piece, part in zip(pieces, parts, strict=True) for _ in part]
    if ids[-1] not in chat.stop or not mask[-1]:
        raise CheckError("the last supervised token is not a stop id: the model would not learn to end a reply")
    inner = (part[:-1] for piece, part in zip(pieces, parts, strict=True) if piece.turn is not None)
    if any(i in chat.stop for part in inner for i in part):
        raise CheckError("a stop id stands within a reply")
    scored = chat.decode([i for i, counts in zip(ids, mask, strict=True) if counts])
    for content in (message.content.strip() for message in said):
        if content not in scored and _as_read(chat, content) not in scored:
            if chat.tokenizer.unk_token_id in ids:
                raise _Leave(UNSPELLED)
            raise CheckError("the supervised tokens do not decode to the reply")
    return ids, mask


def _as_read(chat: Chat, text: str) -> str:
    """A text after a tokenizer that keeps less than all of it, such as one that knows lower case only."""
    return chat.decode(chat.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]).strip()


def _without_end(record: Record, replies: list[Masked]) -> list[Masked]:
    """The replies; those that a token limit cut have no stop id."""
    unfinished = record.unfinished if isinstance(record, Preference) else ()
    return [
        (ids[:-1], mask[:-1]) if name in unfinished else (ids, mask)
        for name, (ids, mask) in zip(("chosen", "rejected"), replies, strict=False)
    ]


def _numbers(record: Record) -> dict[str, float]:
    if not isinstance(record, Preference):
        return {}
    return {"margin": record.margin or 0.0, "label": record.label, "weight": record.weight}


# All rows.

Rows = list[tuple[int, Tree]]
"""Trees with the index of the record that each was made of."""


class Maker:
    """Makes trees and keeps account of what was left out and of what is wrong."""

    def __init__(self, chat: Chat, max_length: int, truncate: bool):
        self.chat, self.max_length, self.truncate = chat, max_length, truncate
        self.rows: Rows = []
        self.account = Dropped()
        self.wrong: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.rewritten: Counter[str] = Counter()

    def make(self, records: Sequence[Record]) -> tuple[Rows, Dropped]:
        """Rows of all records, in their order. Raises CheckError that counts whatever cannot be trusted."""
        self.account.rows = len(records)
        for start in range(0, len(records), BATCH):
            self._batch(list(enumerate(records[start : start + BATCH], start)))
        if self.rewritten.total() > REWRITTEN_LIMIT * len(records):
            self.wrong += self.rewritten
        elif self.rewritten:
            self.account.reasons[REWRITTEN] = self.rewritten.total()
        if self.wrong:
            raise CheckError("; ".join(
                f"{n} of {len(records)} rows: {why} (first: {self.first[why]})" for why, n in self.wrong.items()
            ))  # fmt: skip
        self.rows.sort(key=lambda row: row[0])
        return self.rows, self.account

    def _batch(self, records: list[tuple[int, Record]]) -> None:
        """Drafts first, since tokenizers are several times faster on many texts at once."""
        drafts: list[tuple[int, _Draft]] = []
        for index, record in records:
            with self._judging(record):
                if isinstance(record, Text):
                    self.rows += [(index, tree) for tree in _windows(record, self.chat, self.max_length)]
                elif self.chat.spells_special(_messages(record)):
                    raise _Leave("whose text spells a special token")
                elif any(not said.strip() for said in replies(record)):
                    raise _Leave("with an empty reply")
                else:
                    drafts.append((index, _draft(record, self.chat)))
        ids = iter(self.chat.encode([piece for _, draft in drafts for piece in draft.pieces()]))
        for index, draft in drafts:
            parts = list(islice(ids, len(draft.pieces())))
            with self._judging(draft.record):
                self.rows.append((index, self._tree(draft, iter(parts))))

    @contextmanager
    def _judging(self, record: Record) -> Iterator[None]:
        try:
            yield
        except _Leave as why:
            self.account.reasons[str(why)] += 1
        except CheckError as error:
            (self.rewritten if isinstance(error, Rewritten) else self.wrong)[str(error)] += 1
            self.first.setdefault(str(error), record.id)  # type: ignore[attr-defined]

    def _tree(self, draft: _Draft, parts: Iterator[list[int]]) -> Tree:
        """The tree of a draft. Raises _Leave, or CheckError on what cannot be trusted."""
        prompt = [i for part in islice(parts, len(draft.prompt)) for i in part]
        replies = [_masked(self.chat, pieces, list(islice(parts, len(pieces))), draft.turns, said)
                   for pieces, said in zip(draft.replies, draft.said, strict=True)]  # fmt: skip
        bos = self.chat.tokenizer.bos_token_id
        if bos is not None and prompt[:2] == [bos, bos]:
            raise CheckError("BOS is doubled")
        if self.chat.default_system and not any(m.role == "system" for m in _messages(draft.record)):
            self.account.default_system += 1
        replies = self._fitted(len(prompt), _without_end(draft.record, replies))
        if len(replies) == 2 and replies[0] == replies[1]:
            raise _Leave("with two replies of the same tokens")
        made = (Reply(np.array(ids, np.int32), None if all(mask) else np.array(mask)) for ids, mask in replies)
        return Tree(draft.record.id, np.array(prompt, np.int32), tuple(made), _numbers(draft.record))

    def _fitted(self, prompt: int, replies: list[Masked]) -> list[Masked]:
        """Replies that fit behind so many tokens of prompt, cut where that is allowed."""
        room = self.max_length - prompt
        if all(len(ids) <= room for ids, _ in replies):
            return replies
        self.account.too_long += 1
        if room <= 0:
            raise _Leave(f"whose prompt fills {self.max_length} tokens")
        if not self.truncate:
            raise _Leave(f"longer than {self.max_length} tokens")
        cut = [(ids[:room], mask[:room]) for ids, mask in replies]
        if not all(any(mask) for _, mask in cut):
            raise _Leave(f"without a supervised token within {self.max_length}")
        self.account.truncated += 1
        return cut


def _messages(record: Record) -> Messages:
    if isinstance(record, Demonstration):
        return record.messages
    return record.prompt + record.chosen + record.rejected if isinstance(record, Preference) else ()


def _windows(record: Text, chat: Chat, max_length: int) -> Iterator[Tree]:
    """Windows of a text; each begins with the last token of the one before, which it only looks at."""
    ids = np.array(chat.document(record.text), np.int32)
    for n in range(max(1, math.ceil((len(ids) - 1) / (max_length - 1)))):
        part = ids[n * (max_length - 1) :][:max_length]
        if len(part) > 1:
            yield Tree(f"{record.id}.{n}", np.zeros(0, np.int32), (Reply(part),))
