"""What training stages share in a recipe. Knows no torch, so that planning can read it."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from align.config import Config, Lora, Optim
from align.data.fields import DataField
from align.records import Record
from align.stage import Context, Stage

if TYPE_CHECKING:
    from align.models.preview import Preview

REFERENCE_FREE = ("simpo", "orpo")
"""Preference losses that look at the policy alone."""
SOFT = ("sigmoid", "robust", "simpo")
"""Preference losses that take soft labels and smoothing."""


class Validation(Config):
    """Measures the objective on rows that are not trained on, and keeps the best weights if asked to."""

    data: DataField | None = None
    """Rows to measure on; none means a share of the training rows, held out."""
    share: float = Field(default=0.05, gt=0, lt=1)
    """The share of the training rows that is held out, by prompt, where `data` is not given."""
    every: int = Field(default=100, gt=0)
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

    every: int | None = Field(default=None, gt=0)
    """Save after so many steps; none means about every five minutes."""
    keep: int = Field(default=2, gt=0)
    """How many of them stay on disk until the stage is done."""


class Training(Stage, ABC):
    """The fields of every stage that trains a model."""

    distributed = True
    unkeyed = frozenset({"checkpoint"})
    reads: ClassVar[type[Record]]
    """The kind of records that it trains on."""
    usual_lr: ClassVar[float]
    """Peak learning rate where `optim.lr` is not given and all weights train."""
    dropout: ClassVar[bool] = False
    """Whether the objective allows dropout; a policy that is compared with a reference must not have any."""

    data: DataField
    """What to train on."""
    optim: Optim = Optim()
    """The optimizer."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the data."""
    max_length: int = Field(default=1024, gt=1)
    """Tokens of a prompt with one reply. Prompts are never cut: a row whose prompt leaves no room is left out."""
    too_long: Literal["drop", "truncate"] = "drop"
    """Whether a reply that is longer is left out or cut; both are counted."""
    max_too_long: float = Field(default=0.1, ge=0, le=1)
    """The share of rows that may be too long; more is an error."""
    lora: Lora | None = None
    """Train a low-rank adapter instead of all weights."""
    adapter: Literal["new", "continue", "merge-first"] = "new"
    """What becomes of the adapters the policy arrives with: a new one on top, the last one goes on training, or they
    are merged into the weights first."""
    validation: Validation | None = None
    """Measure on held-out rows while training."""
    checkpoint: Checkpoint = Checkpoint()
    """How often training can be gone on with after a kill."""

    @model_validator(mode="after")
    def _dropout_only_where_allowed(self) -> Training:
        if self.lora and self.lora.dropout and not self.dropout:
            raise ValueError(f"lora.dropout must be 0 in {self.name}: scores with dropout cannot be compared")
        return self

    def doubts(self, made_by: Mapping[str, Stage]) -> Iterator[tuple[str, str]]:
        root: Stage = self
        for _ in made_by:  # at most so many, for a cycle would never end
            root = made_by.get(getattr(getattr(root, "policy", None), "name", ""), root)
        sizes = getattr(root, "model", None) if root.name == "pretrain" else None
        limit = sizes.get("max_position_embeddings") if isinstance(sizes, Mapping) else None
        if isinstance(limit, int) and self.max_length and self.max_length > limit:
            yield "max_length", f"{self.max_length} is more than the model's {limit} positions; set it to that"

    def preview(self, ctx: Context) -> Preview:
        """What training starts from, without its weights: enough to make tokens of the rows."""
        from align.models.preview import preview

        return preview(ctx.forerunner(dict(self.references())["policy"]), ctx.base, ctx.store)

    def rate(self) -> float:
        """The peak learning rate."""
        if self.optim.lr is not None:
            return self.optim.lr
        adapted = self.lora is not None or self.adapter == "continue"
        return self.usual_lr * (10 if adapted else 1)
