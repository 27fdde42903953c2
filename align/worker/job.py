"""What the runner tells a worker to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from align.config import Data, Endpoint, Model
from align.machine import Machine
from align.store import Store


class Input(BaseModel):
    """What one reference of a stage stands for: a model, a dataset, or else the artifact of that key."""

    key: str
    model: Model | Endpoint | None = None
    data: Data | None = None
    forerunner: Input | None = None
    """Of a policy that is yet to be made: the model that it will descend from, if that is there."""
    decided: str = ""
    """Of a loop's result: what it turned out to be, and why."""


class Job(BaseModel):
    """One stage to check or to run, with everything that leads to its result."""

    do: Literal["check", "run"]
    recipe: str
    stage: str
    """The stage's name in the recipe."""
    type: str
    """The registered name of its class."""
    fields: dict[str, Any]
    key: str
    seed: int
    inputs: dict[str, Input]
    plugins: tuple[Path, ...] = ()
    base: Path
    store: Path
    machine: Machine
    code: str = ""
    """Hash of the module that defines the stage."""
    commit: str | None = None
    """Git commit of the recipe's repository."""
    unchecked: bool = False
    """Check once more before running: what the stage needs was missing when it was checked."""
    smoke: bool = False
    """Put tiny stand-ins in place of all models and datasets."""
    fresh: bool = False
    """Make it from the start, though its artifact or what a killed run left of it is there."""

    def work(self) -> Path:
        return Store(self.store).work(self.key)

    def log(self, rank: int = 0) -> Path:
        """Where the stage's output goes."""
        return self.work() / (f"log-{rank}.txt" if rank else "log.txt")
