"""Rows as the model sees them: template applied, cut into what is prompt, what is supervised and what is ignored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from align.data.chat import Chat
from align.data.tree import Reply, Tree

Part = Literal["prompt", "supervised", "ignored"]


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens of one kind, as text with special tokens spelled out."""

    text: str
    part: Part
    tokens: int


@dataclass(frozen=True)
class Shown:
    """One row."""

    id: str
    prompt: Span
    replies: tuple[tuple[Span, ...], ...]
    """Of each reply, its spans; raw text has one reply and an empty prompt."""
    numbers: dict[str, float]

    @property
    def tokens(self) -> int:
        return self.prompt.tokens + sum(span.tokens for reply in self.replies for span in reply)


def shown(trees: Iterable[Tree], chat: Chat) -> list[Shown]:
    """Trees as spans of text."""
    return [
        Shown(
            tree.id, Span(chat.spelled(tree.prompt.tolist()), "prompt", len(tree.prompt)),
            tuple(_spans(reply, chat, unseen=not len(tree.prompt)) for reply in tree.replies), tree.numbers,
        )
        for tree in trees
    ]  # fmt: skip


def _spans(reply: Reply, chat: Chat, unseen: bool) -> tuple[Span, ...]:
    scored = np.ones(len(reply.ids), bool) if reply.scored is None else reply.scored.copy()
    if unseen:  # nothing is before the first token of raw text, so nothing predicts it
        scored[:1] = False
    made = []
    for counts, group in groupby(zip(scored.tolist(), reply.ids.tolist(), strict=True), key=lambda pair: pair[0]):
        ids = [i for _, i in group]
        made.append(Span(chat.spelled(ids), "supervised" if counts else "ignored", len(ids)))
    return tuple(made)
