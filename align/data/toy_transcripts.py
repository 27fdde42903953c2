"""Text in which speakers of the toy world criticise, revise and compare replies, by its constitution.

A base model that has read it can do so itself. Requests are those of the bundled `toy` constitution, laid out as the
stages `critique_revise` and `ai_feedback` lay them out, so what is learnt here is what is asked there.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from align.constitution import (
    FOLDER,
    LETTERS,
    Constitution,
    asked_to_compare,
    asked_to_criticise,
    asked_to_revise,
    read,
)
from align.data import toy
from align.records import Message, Messages, Text
from align.registry import bundled

FILE: Path = bundled("recipes") / FOLDER / "toy.yaml"
FAULT_SHARE = 0.5
"""Of critiques: those that find a fault."""
CLEAR_SHARE = 0.85
"""Of comparisons: those in which one reply is the better one by the principle asked about; the others are a toss-up."""


@dataclass(frozen=True)
class Standard:
    """What a principle of the toy constitution means."""

    good: Callable[[toy.Verdict], bool]
    """Whether a reply keeps it."""
    blame: str
    """The critique of a reply that breaks it."""
    praise: str
    """The critique of one that keeps it; its revision says the same again."""
    better: Callable[[toy.Verdict], bool]
    """What comparisons by it look at."""


def _harmless(found: toy.Verdict) -> bool:
    return found.topic != "harmful" or found.right


def _helps(found: toy.Verdict) -> bool:
    return found.topic == "harmful" or not found.refuses


STANDARDS = {
    "harm": Standard(_harmless, "Yes, it helps to do harm.", "No, it does no harm.", _harmless),
    "manners": Standard(lambda v: v.polite, "Yes, it is rude.", "No, it is kind.", lambda v: v.polite),
    "help": Standard(_helps, "Yes, it is a good thing.", "No, all is well.", lambda v: v.topic == "harmful" or v.right),
}


@cache
def constitution() -> Constitution:
    """The bundled constitution, whose principles the standards are for."""
    return read(FILE)


def transcript(id: str, split: toy.Split, draw: random.Random) -> Text:
    """A critique and a revision, or a comparison."""
    make = _revised if draw.random() < 0.5 else _compared
    return Text(id, plain(make(split, draw)))


def plain(turns: Messages) -> str:
    """A conversation as the `plain` template writes it, but for the end of its last reply, which every text gets."""
    end = {"user": "\n\n", "assistant": "</s>\n\n"}
    return "".join(f"{t.role.capitalize()}: {t.content}{end[t.role]}" for t in turns).removesuffix("</s>\n\n")


def _revised(split: toy.Split, draw: random.Random) -> Messages:
    principle, kept = draw.choice(constitution().principles), draw.random() >= FAULT_SHARE
    standard = STANDARDS[principle.name]
    while True:
        prompt, asked = toy.ask(split, draw)
        reply = toy.reply_of(toy.writer(0.5, draw), asked, draw)
        if standard.good(toy.judge(prompt, reply)) == kept:
            break
    criticised = asked_to_criticise((Message("user", prompt),), reply, principle)
    request = asked_to_revise(criticised, standard.praise if kept else standard.blame, principle)
    return (*request, Message("assistant", reply if kept else _better(principle.name, asked, reply, draw)))


def _better(principle: str, asked: toy.Question, reply: str, draw: random.Random) -> str:
    """A reply that keeps the principle which this one breaks."""
    if principle == "manners":
        return toy.kindly(toy.core_of(reply), draw)
    core = draw.choice(toy.REFUSALS) if principle == "harm" else draw.choice(toy.HELP).format(asked.answer)
    return toy.kindly(core, draw)


def _compared(split: toy.Split, draw: random.Random) -> Messages:
    principle = draw.choice(constitution().principles)
    better, clear = STANDARDS[principle.name].better, draw.random() < CLEAR_SHARE
    while True:
        prompt, asked = toy.ask(split, draw)
        first, second = (toy.reply_of(toy.writer(0.5, draw), asked, draw) for _ in LETTERS)
        kept = better(toy.judge(prompt, first)), better(toy.judge(prompt, second))
        if (kept[0] != kept[1]) == clear:
            break
    letter = LETTERS[kept[1]] if clear else draw.choice(LETTERS)
    return (*asked_to_compare((Message("user", prompt),), first, second, principle), Message("assistant", letter))
