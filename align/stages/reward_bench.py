"""Rewards measured on labelled pairs, and a gate that lets only a good one pass."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from align.config import Model
from align.data import read
from align.data.fields import DataField
from align.disk import files_below
from align.errors import CheckError, suggestion
from align.records import Preference
from align.rewards.base import RewardField, RewardSpec, load, names
from align.stage import Context, RewardRef, Stage
from align.store import MANIFEST

MEASURED = (
    "pairs", "unscored", "accuracy", "accuracy_low", "accuracy_high", "mean_over_tags", "length_accuracy",
    "length_lead", "length_p", "length_correlation", "score_spread", "brier",
    "calibration_error",
)  # fmt: skip


class RewardBench(Stage):
    """Measure rewards on labelled pairs: accuracy with its interval, overall and by source, beside a rule that knows
    lengths only; calibration; correlation with length. Intervals count pairs about one prompt, or about turns of one
    conversation, for what they tell together.

    Reads any preferences, such as the files of RewardBench (tag: subset) and LLMBar. Writes reward_bench.json.
    """

    name = "reward_bench"
    makes = "report"

    rewards: tuple[RewardField, ...] = Field(min_length=1)
    """What is measured, each a `$reward`, a name or a block."""
    data: DataField
    """Pairs of which somebody said which reply is better."""
    tag: str | None = None
    """The column that says where a pair is from, such as RewardBench's `subset`: accuracy is shown for each value."""

    @model_validator(mode="after")
    def _distinct_names(self) -> RewardBench:
        names(self.rewards)
        return self

    def check(self, ctx: Context) -> dict[str, Any]:
        return {"pairs": len(_pairs(ctx, self.data))}

    def run(self, ctx: Context) -> dict[str, float]:
        pairs = _pairs(ctx, self.data)
        found = {reward.name: _measured(ctx, reward, pairs, self.tag) for reward in self.rewards}
        (ctx.out / "reward_bench.json").write_text(json.dumps(found, indent=1) + "\n")
        return {f"{name}/{m}": v for name, values in found.items() for m, v in values.items() if m != "tags"}


class Gate(Stage):
    """Let a trained reward pass only if it is good enough on labelled pairs: what uses `$gate` in its place, such as
    ppo, does not run otherwise.

    `{stage: gate, reward: $reward, data: $tests, least: {accuracy: 0.65, length_lead: 0.02}, most: {brier: 0.2}}`

    What lets a policy pass by a comparison is the `gate:` of a group, of one round if need be.
    """

    name = "gate"
    makes = "reward"

    reward: RewardRef
    """What has to pass."""
    data: DataField
    """Pairs that it has not seen."""
    least: dict[str, float] = Field({})
    """Metric to the lowest value that passes: those of `reward_bench`. `length_lead` is accuracy minus that of the best
    rule that knows lengths only; `accuracy_low` the lower end of the interval."""
    most: dict[str, float] = Field({})
    """Metric to the highest value that passes, such as `length_correlation`."""

    @model_validator(mode="after")
    def _asks_something(self) -> Gate:
        if not self.least and not self.most:
            raise ValueError("a gate needs `least` or `most`, such as least: {accuracy: 0.65}")
        for name in (*self.least, *self.most):
            if name not in MEASURED:
                raise ValueError(f"no metric is called {name!r}.{suggestion(name, MEASURED)}")
        return self

    def check(self, ctx: Context) -> dict[str, Any]:
        return {"pairs": len(_pairs(ctx, self.data))}

    def run(self, ctx: Context) -> dict[str, float]:
        found = _measured(ctx, self.reward, _pairs(ctx, self.data), None)
        missed = [f"{m} is {found[m]:.3g}, not at least {v:g}" for m, v in self.least.items() if not found[m] >= v]
        missed += [f"{m} is {found[m]:.3g}, not at most {v:g}" for m, v in self.most.items() if not found[m] <= v]
        if missed:
            raise CheckError(
                f"reward {self.reward.name!r} does not pass: {'; '.join(missed)} on {found['pairs']:.0f} pairs. Train "
                "a better one, or ask less of it here"
            )
        passed = ctx.checkpoint(self.reward)
        if isinstance(passed, Model):
            raise CheckError(f"reward {self.reward.name!r} comes from outside; a gate is for what a stage has trained")
        _pass_on(passed.path, ctx.out)
        return passed.metrics | {f"gate_{m}": v for m, v in found.items() if m != "tags"}


def _pass_on(made: Path, out: Path) -> None:
    """The files of an artifact under another name: no second copy of the weights where the disk knows links."""
    for file in files_below(made):
        place = out / file.relative_to(made)
        if place != out / MANIFEST:
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, place)
            except OSError:
                shutil.copyfile(file, place)


def _pairs(ctx: Context, data: Any) -> list[Preference]:
    pairs = read(ctx, data, Preference)
    if len(pairs) < 2:
        raise CheckError(f"accuracy needs at least 2 pairs, and hundreds to tell much; there is {len(pairs)}")
    return pairs


def _measured(
    ctx: Context, wanted: RewardRef | RewardSpec, pairs: Sequence[Preference], tag: str | None
) -> dict[str, Any]:
    """What `bench` says of one reward, and one sentence for people."""
    import numpy as np

    from align.evals.clusters import places
    from align.evals.reward_bench import bench, pair_scores

    reward = load(wanted, ctx)
    if reward.better is None:
        raise CheckError(f"reward {reward.name!r} calls no score better; write `better: higher` or `better: lower`")
    scores = pair_scores(reward, pairs)
    lengths = np.array([[len(said[-1].content.split()) for said in (p.chosen, p.rejected)] for p in pairs], float)
    if np.isnan(scores).any(1).all():
        raise CheckError(f"reward {reward.name!r} has nothing to say about any of {len(pairs)} pairs")
    tags = [str(pair.extra.get(tag, "")) if tag else "" for pair in pairs]
    found = bench(scores, lengths, tags, places([pair.prompt for pair in pairs]))
    ctx.note(
        f"{reward.name}: right on {found['accuracy']:.1%} [{found['accuracy_low']:.1%}, {found['accuracy_high']:.1%}] "
        f"of {found['pairs']:.0f} pairs; the best rule that knows lengths only: {found['length_accuracy']:.1%} "
        f"(p = {found['length_p']:.2g})"
    )
    return found
