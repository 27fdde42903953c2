"""The type of a stage's data field: one dataset, or a mixture. Knows no torch, so that planning can read it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from align.config import Config
from align.stage import RecordsRef


class Part(Config):
    """One dataset of a mixture and how much of it: `{from: $demos, weight: 0.3}`."""

    source: RecordsRef = Field(alias="from")
    """The dataset."""
    weight: float | None = Field(default=None, gt=0)
    """Its share of the mixture, relative to the other weights. The mixture is the largest that repeats no row."""
    count: int | None = Field(default=None, gt=0)
    """So many rows, drawn with the recipe's seed; more than there are means whole passes first."""

    @model_validator(mode="after")
    def _one_amount(self) -> Part:
        if self.weight is not None and self.count is not None:
            raise ValueError("weight and count exclude each other")
        return self


def _weights_on_all_or_none(parts: tuple[RecordsRef | Part, ...]) -> tuple[RecordsRef | Part, ...]:
    if not parts:
        raise ValueError("a mixture needs at least one dataset")
    weighted = [isinstance(part, Part) and part.weight is not None for part in parts]
    if any(weighted) and not all(weighted):
        raise ValueError("either every part of a mixture has a weight or none has")
    return parts


def _shape(value: Any) -> str:
    return "mixture" if isinstance(value, (list, tuple)) else "dataset"


def _part_shape(value: Any) -> str:
    return "part" if isinstance(value, (dict, Part)) else "dataset"


_MixturePart = Annotated[
    Annotated[RecordsRef, Tag("dataset")] | Annotated[Part, Tag("part")], Discriminator(_part_shape)
]
_Mixture = Annotated[tuple[_MixturePart, ...], AfterValidator(_weights_on_all_or_none)]

DataField = Annotated[
    Annotated[RecordsRef, Tag("dataset")] | Annotated[_Mixture, Tag("mixture")], Discriminator(_shape)
]
"""`$demos`, or a list of datasets and parts: `[$demos, {from: $more, count: 2000}]`."""
