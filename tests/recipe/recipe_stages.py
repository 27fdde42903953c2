"""Plugin stages for the recipe's tests: one of each kind, with every sort of field that a recipe can get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from align.config import Config, Lora, Model, Optim
from align.data.fields import DataField
from align.stage import Context, Kind, PolicyRef, RecordsRef, RewardRef, Stage


class Coarse(Config):
    kind: Literal["coarse"] = "coarse"
    size: int = 1


class Fine(Config):
    kind: Literal["fine"] = "fine"
    size: int = 1


class Grow(Stage):
    """Make a policy of another one."""

    name = "grow"
    makes: ClassVar[Kind] = "policy"

    policy: PolicyRef
    """What to start from. Never changed."""
    data: DataField
    """What to learn from."""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """Which loss."""
    smoothing: float = 0.0
    """How much to doubt labels."""
    grain: Coarse | Fine = Coarse()
    """How fine."""
    lora: Lora | None = None
    """Adapters."""
    optim: Optim = Optim(lr=1e-3)
    """How to step."""

    @model_validator(mode="after")
    def _smoothing_needs_sigmoid(self) -> Grow:
        if self.smoothing and self.loss == "ipo":
            raise ValueError("smoothing has no effect with loss ipo")
        return self

    def run(self, ctx: Context) -> dict[str, float]:
        return {}


class Judge(Stage):
    """Make a reward model."""

    name = "judge"
    makes: ClassVar[Kind] = "reward"

    policy: PolicyRef
    """What to start from."""
    words: Path | None = None
    """A list of words."""
    depth: int | Coarse | None = None
    """A number or a block."""
    outsider: Model | None = None
    """A model of its own."""

    def run(self, ctx: Context) -> dict[str, float]:
        return {}


class Write(Stage):
    """Write replies and score them."""

    name = "write"
    makes: ClassVar[Kind] = "records"

    policies: tuple[PolicyRef, ...]
    """Who writes."""
    reward: RewardRef | None = None
    """Who scores."""
    prompts: RecordsRef
    """To what."""
    options: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    """Anything."""

    def run(self, ctx: Context) -> dict[str, float]:
        return {}


class Tell(Stage):
    """Report on policies by their names."""

    name = "tell"
    makes: ClassVar[Kind] = "report"

    policies: tuple[PolicyRef, ...]
    """On whom."""

    def run(self, ctx: Context) -> dict[str, float]:
        return {}
