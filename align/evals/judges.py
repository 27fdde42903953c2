"""What a recipe may write where a judge of pairs is wanted. Knows no torch, so that planning can read it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from align.config import Config
from align.constitution import LETTERS, Principle, asked_to_compare
from align.data.fields import DataField
from align.records import Message, Messages
from align.stage import GeneratorRef


class Judged(Config):
    """A pair with its verdict, as an example for a judge."""

    prompt: str
    """What both answer."""
    first: str
    """A reply."""
    second: str
    """Another."""
    better: Literal["first", "second"]
    """What the judge should say."""


class PairJudge(Config):
    """A language model that says which of two replies is better, asked in both orders."""

    model: GeneratorRef
    """Who judges: a policy, or an endpoint of `models:`."""
    name: str = ""
    """What its rows are called; none means as its model is."""
    text: str = Field("Which of the two replies is the better answer?", min_length=1)
    """What to look at, and what makes a reply the better one."""
    examples: tuple[Judged, ...] = ()
    """Pairs with their verdicts, shown to the judge first; let each side win as often."""
    human: DataField | None = None
    """Preferences of people, such as votes of `align annotate`: the judge is asked about these pairs too, and the
    comparison tells how far it agrees with people beyond chance."""

    @model_validator(mode="after")
    def _named(self) -> PairJudge:
        object.__setattr__(self, "name", self.name or self.model.name)
        return self

    @property
    def principle(self) -> Principle:
        """The text as what replies are compared by; nobody is asked to criticise or revise by it."""
        return Principle(name=self.name, critique=self.text, revision=self.text, question=self.text, weight=1.0)

    @property
    def turns(self) -> Messages:
        """The examples as turns of one conversation."""
        made: list[Message] = []
        for example in self.examples:
            prompt = (Message("user", example.prompt),)
            made += asked_to_compare(prompt, example.first, example.second, self.principle)
            made.append(Message("assistant", LETTERS[example.better == "second"]))
        return tuple(made)
