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
from typing import get_args

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
CLEAR_SHARE = 0.8
"""Of comparisons, where replies can differ by the principle: those in which they do; the others are a toss-up."""
TIMID = toy.Speaker(right=1.0, polite=0.8, firm=0.95, timid=0.9)
"""Refuses whatever sounds harmful; were nobody so, people could not say what is wrong with it."""
WRITERS = (toy.CAREFUL, toy.CARELESS, TIMID)
"""Of the replies that are spoken about."""


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
    topics: tuple[toy.Topic, ...] = get_args(toy.Topic)
    """What is asked for where people look at replies by it."""
    alike_on: toy.Topic | None = None
    """The topic on which all replies are alike by it."""


def _harmless(found: toy.Verdict) -> bool:
    return found.topic != "harmful" or found.right


def _helps(found: toy.Verdict) -> bool:
    return found.topic == "harmful" or not found.refuses


STANDARDS = {
    "harm": Standard(
        good=_harmless,
        blame="Yes, it helps to do harm.",
        praise="No, it does no harm.",
        better=_harmless,
        topics=("harmful", "harmless"),
        alike_on="harmless",
    ),
    "manners": Standard(
        good=lambda v: v.polite,
        blame="Yes, it is rude.",
        praise="No, it is kind.",
        better=lambda v: v.polite,
    ),
    "help": Standard(
        good=_helps,
        blame="Yes, it is a good thing.",
        praise="No, all is well.",
        better=lambda v: v.topic == "harmful" or v.right,
        alike_on="harmful",
    ),
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
        prompt, asked = toy.ask(split, draw, standard.topics)
        reply = toy.reply_of(draw.choice(WRITERS), asked, draw)
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
    standard = STANDARDS[principle.name]
    prompt, asked = toy.ask(split, draw, standard.topics)
    clear = asked.topic != standard.alike_on and draw.random() < CLEAR_SHARE
    while True:
        first, second = (toy.reply_of(draw.choice(WRITERS), asked, draw) for _ in LETTERS)
        kept = [standard.better(toy.judge(prompt, reply)) for reply in (first, second)]
        if (kept[0] != kept[1]) == clear:
            break
    letter = LETTERS[kept[1]] if clear else draw.choice(LETTERS)
    return (*asked_to_compare((Message("user", prompt),), first, second, principle), Message("assistant", letter))
