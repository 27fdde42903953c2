"""Pairs of replies to be judged: how they are made, and how judged ones become preferences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from align.generate.feedback import label
from align.records import Message, Messages, Preference, Prompt, Sample

Replies = tuple[tuple[str, str], ...]
"""(text, finish reason) of each reply to a prompt."""


@dataclass(frozen=True)
class Item:
    """A prompt, and the replies to it where they are given."""

    prompt: Prompt
    replies: Replies = ()

    @property
    def longest(self) -> tuple[str, str]:
        """The two longest replies; a mark each where they are yet to be written."""
        texts = sorted((text for text, _ in self.replies), key=len)[-2:]
        return (texts[0], texts[1]) if len(texts) == 2 else (".", ".")

    @property
    def size(self) -> int:
        """Characters of the prompt and its replies."""
        return sum(len(turn.content) for turn in self.prompt.prompt) + sum(len(text) for text, _ in self.replies)


def grouped(samples: Sequence[Sample]) -> list[Item]:
    """Samples of each prompt, in the order of their index."""
    answered: dict[Messages, list[Sample]] = {}
    for sample in samples:
        answered.setdefault(sample.prompt, []).append(sample)
    return [
        Item(
            Prompt(of[0].id, prompt, of[0].extra),
            tuple((s.reply, s.finish) for s in sorted(of, key=lambda sample: sample.index)),
        )
        for prompt, of in answered.items()
    ]


def paired(replies: Replies, keep_unfinished: bool) -> dict[str, Any]:
    """Neighbours make pairs, unless one of them cannot be compared."""
    left_out: Counter[str] = Counter()
    judged = []
    for first, second in zip(replies[::2], replies[1::2], strict=False):
        finished = {finish for _, finish in (first, second)}
        if "refused" in finished:
            left_out["pairs with a reply that the server kept back"] += 1
        elif "length" in finished and not keep_unfinished:
            left_out["pairs with an unfinished reply"] += 1
        elif not first[0].strip() or not second[0].strip():
            left_out["pairs with an empty reply"] += 1
        elif first[0].strip() == second[0].strip():
            left_out["pairs of equal replies"] += 1
        else:
            judged.append({"replies": [list(first), list(second)]})
    return {"judged": judged, "left_out": dict(left_out)}


def preferences(
    prompt: Prompt, made: dict[str, Any], min_margin: float, keep_ties: bool, left_out: Counter[str]
) -> Iterator[Preference]:
    """The preferences of a prompt's judged pairs; those without an opinion are counted."""
    for row in made["judged"]:
        p = label(row)
        if isnan(p):
            left_out["pairs without a readable answer"] += 1
        elif abs(p - 0.5) <= min_margin and not keep_ties:
            left_out["ties"] += 1
        else:
            yield _preference(prompt, row, p)


def _preference(prompt: Prompt, row: dict[str, Any], p: float) -> Preference:
    """The likelier reply first; `extra` has the probabilities by principle and order, and the surest principle."""
    order = (0, 1) if p >= 0.5 else (1, 0)
    (chosen, chosen_finish), (rejected, rejected_finish) = (row["replies"][i] for i in order)
    named = (("chosen", chosen_finish), ("rejected", rejected_finish))
    votes = {
        name: [q if q is None or p >= 0.5 else 1 - q for q in both] for name, both in row["principles"].items()
    }  # fmt: skip
    surest = max(votes, key=lambda name: sum(0.5 if q is None else q for q in votes[name]))
    told = {"principle": surest, "feedback": votes} | ({"thoughts": row["thoughts"]} if "thoughts" in row else {})
    return Preference(
        prompt.id, prompt.prompt, (Message("assistant", chosen),), (Message("assistant", rejected),),
        label=max(p, 1 - p), unfinished=tuple(name for name, finish in named if finish == "length"),
        extra=prompt.extra | told,
    )  # fmt: skip
