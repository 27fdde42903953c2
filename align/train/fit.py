"""The loop: which rows make which step, when to measure, when to save, and how to stop.

Everything is a function of (seed, step): a run of k steps, stopped and gone on with for k more, is the run of 2 k.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from align.data.tree import Tree
from align.errors import CheckError, Interrupted, TrainingError, suggestion
from align.stage import Context
from align.train import checkpoint as checkpoints
from align.train.fields import Checkpoint, Validation
from align.train.learner import Learner
from align.train.objectives import Objective

SAVE_SECONDS = 300.0


def step_count(rows: int, batch_size: int, epochs: float) -> int:
    """Optimizer steps of exactly `batch_size` rows in `epochs` passes, rounded; at least one.

    Raises CheckError where there are fewer rows than a batch has.
    """
    if rows < batch_size:
        raise CheckError(
            f"optim.batch_size is {batch_size}, but there are only {rows} rows to train on. "
            f"Set batch_size to {max(1, rows)} or less, or give more data"
        )
    return max(1, round(rows * epochs / batch_size))


def rows_of(step: int, rows: int, batch_size: int, seed: int) -> list[int]:
    """The row indices of one step: passes over all rows, each in its own order, cut into batches without a gap."""
    places = range(step * batch_size, (step + 1) * batch_size)
    orders = {turn: np.random.default_rng([seed, turn]).permutation(rows) for turn in {i // rows for i in places}}
    return [int(orders[i // rows][i % rows]) for i in places]


def fit(
    ctx: Context,
    learner: Learner,
    objective: Objective,
    trees: Sequence[Tree],
    *,
    checkpoint: Checkpoint,
    validation: Validation | None = None,
    held_out: Sequence[Tree] = (),
) -> dict[str, float]:
    """Trains for `learner.steps` steps, going on from the newest checkpoint in `ctx.work`, and returns final metrics.

    Raises Interrupted, after a complete step and a checkpoint, when `ctx.stopping()`.
    """
    folder = ctx.work / "checkpoints"
    state: dict[str, Any] = checkpoints.load(folder, learner) or {"last": {}, "best": None, "anchor": None}
    if learner.step:
        ctx.note(f"going on after step {learner.step} of {learner.steps}")
    batch_size, seed = learner.optim.batch_size, ctx.seed_of("order")
    meter = _Meter(learner, checkpoint)
    while learner.step < learner.steps:
        rows = [trees[i] for i in rows_of(learner.step, len(trees), batch_size, seed)]
        metrics = learner.update(objective, rows)
        if learner.step == 1:
            _check_metric(validation, metrics)
            if learner.steps > 1:
                learner.rehearse(objective, _longest(trees, learner))
        if learner.unrouted:
            ctx.note(f"{len(learner.unrouted)} experts got no token yet: {', '.join(learner.unrouted[:3])}", "warning")
            learner.unrouted = []
        if validation and (learner.step % validation.every == 0 or learner.step == learner.steps):
            metrics |= _validate(ctx, learner, objective, held_out, validation, state)
        state["last"] = metrics
        ctx.emit("step", step=learner.step, steps=learner.steps, **metrics, **meter.read(rows))
        learner.track(metrics)
        if learner.step == learner.steps:
            break
        stop = learner.any_rank(bool(ctx.stopping()))
        if stop or meter.save_due():
            state["anchor"] = (state["best"] or {}).get("best_step")  # in the checkpoint, too: whoever goes on needs it
            checkpoints.save(folder, learner, state, checkpoint.keep)
            ctx.saved()
        if stop:
            raise Interrupted(signal.SIGINT, f"stopped after step {learner.step} of {learner.steps}; it is saved")
    result = {name: value for name, value in state["last"].items() if name not in ("lr", "grad_norm")}
    if validation and validation.keep == "best":
        learner.accelerator.wait_for_everyone()
        checkpoints.restore_weights(_best_file(ctx, state["best"]["best_step"]), learner)
        result |= state["best"]
    return result


def _validate(
    ctx: Context, learner: Learner, objective: Objective, held_out: Sequence[Tree], validation: Validation, state: dict
) -> dict[str, float]:
    """Metrics on the held-out rows, as `validation_...`; notes the best ones in `state` and its weights on disk."""
    measured = learner.evaluate(objective, held_out)
    if not math.isfinite(measured["loss"]):
        raise TrainingError(f"step {learner.step}: the loss on the held-out rows is {measured['loss']}")
    metrics = {f"validation_{name}": value for name, value in measured.items()}
    sign = -1 if validation.metric == "loss" else 1
    name = f"validation_{validation.metric}"
    if validation.keep == "best" and (state["best"] is None or sign * metrics[name] > sign * state["best"][name]):
        state["best"] = metrics | {"best_step": float(learner.step)}
        if learner.accelerator.is_main_process:
            checkpoints.keep_weights(_best_file(ctx, learner.step), learner)
            for old in ctx.work.glob("best-*.pt"):
                if old not in (_best_file(ctx, learner.step), _best_file(ctx, state.get("anchor") or 0)):
                    old.unlink()
    return metrics


def _check_metric(validation: Validation | None, metrics: dict[str, float]) -> None:
    known = [name for name in metrics if name not in ("lr", "grad_norm")]
    if validation and validation.metric not in known:
        hint = suggestion(validation.metric, known)
        raise CheckError(f"validation.metric: this stage has no metric {validation.metric!r}.{hint}")


def _best_file(ctx: Context, step: float) -> Path:
    """Weights by the step they are of, so that what a checkpoint calls best is there when a run goes on from it."""
    return ctx.work / f"best-{int(step):08d}.pt"


def _longest(trees: Sequence[Tree], learner: Learner) -> Sequence[Tree]:
    """The rows of the longest micro-batch that can come: as many of the longest trees as one step has."""
    longest = sorted(trees, key=lambda tree: -tree.length(learner.layout))
    return longest[: learner.optim.batch_size]


class _Meter:
    """Tokens per second, the time left, and when to save."""

    def __init__(self, learner: Learner, checkpoint: Checkpoint):
        self.learner, self.checkpoint = learner, checkpoint
        self.start, self.first = time.monotonic(), learner.step
        self.before = self.saved = self.start

    def read(self, rows: Sequence[Tree]) -> dict[str, float]:
        """The figures of the step that just ended; padding is no token."""
        now = time.monotonic()
        seconds, self.before = max(now - self.before, 1e-9), now
        pace = (now - self.start) / (self.learner.step - self.first)
        tokens = sum(tree.length("tree") for tree in rows)
        left = pace * (self.learner.steps - self.learner.step)
        return {"tokens_per_second": round(tokens / seconds, 1), "seconds_left": round(left, 1)}

    def save_due(self) -> bool:
        """Whether this step ends with a checkpoint; on all ranks as soon as the clock of one says so."""
        if self.checkpoint.every:
            return self.learner.step % self.checkpoint.every == 0
        due = self.learner.any_rank(time.monotonic() - self.saved > SAVE_SECONDS)
        if due:
            self.saved = time.monotonic()
        return due
