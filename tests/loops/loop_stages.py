"""Plugin stages without torch for the loops' tests: policies that are numbers, and comparisons of them."""

from __future__ import annotations

import json
import os
import signal
from itertools import combinations
from typing import Any, ClassVar

from align.config import Model
from align.stage import Context, Kind, PolicyRef, RecordsRef, RewardRef, Stage


def trace(ctx: Context) -> None:
    with open(ctx.base / "trace", "a") as file:
        print(ctx.stage, file=file)


def value(ctx: Context, policy: PolicyRef) -> float:
    """How good a policy is; 0 for one from outside."""
    made = ctx[policy]
    return 0.0 if isinstance(made, Model) else float((made.path / "value").read_text())


class Improve(Stage):
    """Make a policy that is better by `step`; KILL in the environment names a stage that is killed once."""

    name = "improve"
    makes: ClassVar[Kind] = "policy"

    policy: PolicyRef
    """What to improve."""
    data: RecordsRef | None = None
    """What to learn from."""
    reward: RewardRef | None = None
    """What to please."""
    step: float = 1.0
    """By how much."""

    def check(self, ctx: Context) -> dict[str, Any]:
        ctx.forerunner(self.policy)
        return {"checked": 1}

    def run(self, ctx: Context) -> dict[str, float]:
        if os.environ.get("KILL") == ctx.stage and not (mark := ctx.base / "killed").exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        trace(ctx)
        (ctx.out / "value").write_text(str(value(ctx, self.policy) + self.step))
        return {}


class Write(Stage):
    """Make records of a policy."""

    name = "write"
    makes: ClassVar[Kind] = "records"

    policy: PolicyRef
    """Who writes."""

    def run(self, ctx: Context) -> dict[str, float]:
        trace(ctx)
        (ctx.out / "records.jsonl").write_text(f"{value(ctx, self.policy)}\n")
        return {}


class Prefer(Stage):
    """Make a reward of records."""

    name = "like"
    makes: ClassVar[Kind] = "reward"

    data: RecordsRef
    """What to learn from."""

    def run(self, ctx: Context) -> dict[str, float]:
        trace(ctx)
        return {}


class Contrast(Stage):
    """Compare policies as `compare` does: `good` is their value, `worn` is twice that above 2, each known to 0.5."""

    name = "contrast"
    makes: ClassVar[Kind] = "report"

    policies: tuple[PolicyRef, ...]
    """Whom."""
    prompts: int = 100
    """Prompts."""

    def measures(self) -> frozenset[str]:
        return frozenset({"good", "worn", "lost"})

    def run(self, ctx: Context) -> dict[str, float]:
        trace(ctx)
        known = {policy.name: value(ctx, policy) for policy in self.policies}
        metrics = {"good": known, "worn": {name: max(0.0, 2 * v - 4) for name, v in known.items()}}
        found = {
            "policies": {
                name: {metric: self._about(values[name], "value") for metric, values in metrics.items()}
                for name in known
            },
            "pairs": [
                self._about(values[later] - values[earlier], "difference")
                | {"metric": metric, "policy": later, "baseline": earlier}
                for metric, values in metrics.items()
                for earlier, later in combinations(known, 2)
            ],
        }
        (ctx.out / "comparison.json").write_text(json.dumps(found))
        return {}

    def _about(self, number: float, name: str) -> dict[str, float]:
        return {name: number, "low": number - 0.5, "high": number + 0.5, "n": self.prompts, "clusters": None}
