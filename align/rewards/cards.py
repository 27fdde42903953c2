"""Cards: one YAML file for each reward that has a name, saying what it measures and what it is bad at.

A card is found as `reward_models/NAME.yaml` beside the recipe, else in the package. Its cases are its own test: in
each, the good reply must outscore the bad one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from align.config import Config, Model
from align.records import Message, Prompt, prompt_id
from align.registry import bundled

FOLDER = "reward_models"


class Case(Config):
    """A prompt and two replies whose order is not in doubt."""

    prompt: str
    good: str
    bad: str
    extra: dict[str, Any] = Field({})
    """Columns that the rule reads from the prompt's row, such as `answer`."""

    def record(self) -> Prompt:
        turns = (Message("user", self.prompt),)
        return Prompt(prompt_id(turns), turns, self.extra)


class Card(Config):
    """What a reward is."""

    description: str
    """What it measures, in a sentence or two."""
    bad_at: str
    """What it gets wrong, so that nobody optimises it unawares."""
    rule: str | None = None
    """The rule that computes it."""
    model: Model | None = None
    """Or the reward model, with one label, that does."""
    ensemble: dict[str, Any] | None = None
    """Or the rewards that do together: `members` and `pessimism`."""
    options: dict[str, Any] = Field({})
    """Options of the rule."""
    scale: float = 1.0
    """Scores are multiplied by this, then clipped."""
    clip: tuple[float, float] | None = None
    """Lowest and highest score."""
    better: Literal["higher", "lower", "neither"] | None = None
    """Which scores are good; none means what the rule says, and higher for others, turned by a negative `scale`."""
    cases: tuple[Case, ...] = ()
    """Good must outscore bad, by what `better` says."""

    @model_validator(mode="after")
    def _one(self) -> Card:
        if sum(source is not None for source in (self.rule, self.model, self.ensemble)) != 1:
            raise ValueError("a card has one of rule, model and ensemble")
        return self

    def spec(self) -> dict[str, Any]:
        """The part that decides scores, without what is there for people."""
        return self.model_dump(exclude_unset=True, exclude={"description", "bad_at", "cases"})


def find(name: str, base: Path | None = None) -> Card | None:
    """The card of a name, or None. Raises ValueError where its file is wrong."""
    for folder in _folders(base):
        file = folder / f"{name}.yaml"
        if file.is_file():
            return read(file)
    return None


def read(file: Path) -> Card:
    """The card in a file."""
    try:
        return Card.model_validate(yaml.safe_load(file.read_text("utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def files(base: Path | None = None) -> dict[str, Path]:
    """Every card's file by name; those beside the recipe hide the package's."""
    found: dict[str, Path] = {}
    for folder in _folders(base):
        for file in sorted(folder.glob("*.yaml")):
            found.setdefault(file.stem, file)
    return found


def _folders(base: Path | None) -> tuple[Path, ...]:
    return ((base or Path.cwd()) / FOLDER, bundled(FOLDER))
