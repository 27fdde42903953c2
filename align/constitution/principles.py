"""What a constitution is made of: principles, and finished examples of their use."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from align.config import Config
from align.errors import suggestion
from align.records import Message, Messages

PARTS = ("prompt", "reply", "critique_request", "critique", "revision_request", "revision")
"""The turns of a transcript."""


def _some(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


Words = Annotated[str, AfterValidator(_some)]
"""A text that says something."""


class Principle(Config):
    """One thing that replies should be or not be."""

    name: Words
    """What reports call it."""
    critique: Words
    """Asks what is wrong with the last reply."""
    revision: Words
    """Asks for a better one."""
    question: Words | None = None
    """Asks which of two replies is better; none means the one that gives less to say to the critique request."""
    weight: float = Field(default=1.0, gt=0)
    """How often it is drawn, relative to the others."""
    tags: tuple[str, ...] = ()
    """Words by which a stage can choose some of the principles."""

    @property
    def feedback(self) -> str:
        """The question that compares two replies."""
        return self.question or f"Which of the two replies leaves less to say here? {self.critique}"


class Transcript(Config):
    """A finished example: a reply that was criticised and revised. It shows a critic what is wanted."""

    before: tuple[Words, ...] = ()
    """Earlier turns, of the user and the assistant in turn."""
    prompt: Words
    """What was asked."""
    reply: Words
    """The first reply."""
    principle: str | None = None
    """The principle whose requests are put; or the next two fields say them."""
    critique_request: str = ""
    """What asks for the critique."""
    critique: Words
    """What was wrong with the reply."""
    revision_request: str = ""
    """What asks for the revision."""
    revision: Words
    """The better reply."""

    @model_validator(mode="after")
    def _in_turn(self) -> Transcript:
        if len(self.before) % 2:
            raise ValueError(f"before: has {len(self.before)} turns; the prompt comes after a reply, so they are pairs")
        if self.principle is None and not (self.critique_request.strip() and self.revision_request.strip()):
            raise ValueError("needs `principle:`, or both requests in words")
        return self

    def turns(self) -> Messages:
        """The example as a conversation."""
        said = [getattr(self, part) for part in PARTS]
        return tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate((*self.before, *said)))


class Constitution(Config):
    """A name or a path, or in full: principles, and examples of their use."""

    name: str = ""
    """What people call it; none means the file's name."""
    source: str = ""
    """Who wrote it, and after what."""
    principles: tuple[Principle, ...] = Field(min_length=1)
    """What replies are held to."""
    transcripts: tuple[Transcript, ...] = ()
    """Examples for the critic to go by."""

    @model_validator(mode="after")
    def _whole(self) -> Constitution:
        known: dict[str, Principle] = {}
        for number, principle in enumerate(self.principles):
            if principle.name in known:
                raise ValueError(f"principles.{number}.name: {principle.name!r} is there twice")
            known[principle.name] = principle
        for number, transcript in enumerate(self.transcripts):
            if transcript.principle is not None and transcript.principle not in known:
                near = suggestion(transcript.principle, known)
                where = f"transcripts.{number}.principle"
                raise ValueError(f"{where}: there is no principle {transcript.principle!r}.{near}")
        object.__setattr__(self, "transcripts", tuple(_with_requests(made, known) for made in self.transcripts))
        return self

    def tagged(self, tags: Sequence[str]) -> tuple[Principle, ...]:
        """The principles with one of these tags; all, where none is named. Raises ValueError on an unknown tag."""
        known = {tag for principle in self.principles for tag in principle.tags}
        for tag in tags:
            if tag not in known:
                raise ValueError(f"tags: no principle has the tag {tag!r}.{suggestion(tag, known)}")
        return tuple(p for p in self.principles if not tags or {*tags} & {*p.tags})


def drawn(principles: Sequence[Principle], seed: int) -> list[Principle]:
    """All the principles in a random order, in which heavier ones tend to come first.

    Its beginning is a sample without replacement, each next one drawn by weight (Efraimidis and Spirakis 2006).
    """
    chance = random.Random(seed)
    return sorted(principles, key=lambda principle: chance.random() ** (1 / principle.weight), reverse=True)


def _with_requests(transcript: Transcript, principles: Mapping[str, Principle]) -> Transcript:
    """The transcript with the requests of the principle that it names."""
    if transcript.principle is None:
        return transcript
    named = principles[transcript.principle]
    return transcript.model_copy(update={"critique_request": named.critique, "revision_request": named.revision})
