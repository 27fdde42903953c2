"""The blocks of a recipe that training stages share beside `optim`. Knows no torch, so that planning can read it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from align.config import Config
from align.data.fields import DataField


class Validation(Config):
    """Measures the objective on rows that are not trained on, and keeps the best weights if asked to."""

    data: DataField | None = None
    """Rows to measure on; none means a share of the training rows, held out."""
    share: float = Field(0.05, gt=0, lt=1)
    """The share of the training rows that is held out, by prompt, where `data` is not given."""
    every: int = Field(100, gt=0)
    """Measure after so many steps, and at the end."""
    keep: Literal["last", "best"] = "last"
    """`best` goes back to the weights of the best measurement at the end."""
    metric: str = "loss"
    """What is best: the lowest `loss`, or the highest of any other metric of the objective, such as `accuracy`."""

    @model_validator(mode="after")
    def _share_or_data(self) -> Validation:
        if self.data is not None and "share" in self.model_fields_set:
            raise ValueError("share has no effect where data is given: remove one of them")
        if self.metric != "loss" and "metric" in self.model_fields_set and self.keep == "last":
            raise ValueError("metric has no effect with keep: last")
        return self


class Checkpoint(Config):
    """How often training can be gone on with after a kill. Changes no result, so it is in no key."""

    every: int | None = Field(None, gt=0)
    """Save after so many steps; none means about every five minutes."""
    keep: int = Field(2, gt=0)
    """How many of them stay on disk until the stage is done."""
