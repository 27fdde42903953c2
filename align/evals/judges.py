"""What a recipe may write where a judge of pairs is wanted. Knows no torch, so that planning can read it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from align.config import Config, Sampling
from align.constitution import (
    LETTERS,
    Principle,
    asked_to_compare,
    asked_to_conclude,
    asked_to_decide,
    asked_to_reason,
)
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
    why: str = ""
    """What it should think before it does, where judges reason."""


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
    reasoning: Sampling | None = None
    """Let the judge think in words before it answers, drawn so: `{max_new_tokens: 300, temperature: 0}`; none means
    that it answers at once. What it thought is kept beside each pair, and the report shows it."""
    verdict: Literal["probability", "written"] = "probability"
    """How it is read after reasoning: from the probabilities of A and B in one more answer, or from `[[A]]`, `[[B]]` or
    `[[C]]`, a tie, at the end of what it wrote, which suits models that reason by themselves."""
    human: DataField | None = None
    """Preferences of people, such as votes of `align annotate`: the judge is asked about these pairs too, and the
    comparison tells how far it agrees with people beyond chance."""

    @model_validator(mode="after")
    def _named(self) -> PairJudge:
        object.__setattr__(self, "name", self.name or self.model.name)
        return self

    @model_validator(mode="after")
    def _possible(self) -> PairJudge:
        if self.verdict == "written" and self.reasoning is None:
            raise ValueError("verdict: is written at the end of reasoning; give `reasoning: {max_new_tokens: 300}`")
        if self.reasoning is not None and self.reasoning.n != 1:
            raise ValueError(f"reasoning: a judge thinks once before it answers; n is {self.reasoning.n}")
        if self.reasoning is not None and not all(example.why for example in self.examples):
            raise ValueError("examples: say `why` in each, for the judge reasons before it answers")
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
            shown = (prompt, example.first, example.second, self.principle)
            letter = LETTERS[example.better == "second"]
            if self.reasoning is None:
                made += (*asked_to_compare(*shown), Message("assistant", letter))
            elif self.verdict == "written":
                made += (*asked_to_conclude(*shown), Message("assistant", f"{example.why}\n\n[[{letter}]]"))
            else:
                made += (*asked_to_decide(asked_to_reason(*shown), example.why), Message("assistant", letter))
        return tuple(made)
