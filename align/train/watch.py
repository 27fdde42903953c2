"""Watches a transformers `Trainer` for a stage: events for people, checkpoints that survive a kill, and how to stop.

The trainer writes its checkpoints in place, so one that a kill cut short looks whole. Here a checkpoint counts once
`complete.json` names the sizes of its files; older ones are removed only then.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from align.stage import Context
from align.train.fields import Checkpoint
from align.train.fit import SAVE_SECONDS

MARKER = "complete.json"


class Watch(TrainerCallback):
    """A callback for one run of a trainer that logs every step into `ctx.work / "checkpoints"`."""

    def __init__(self, ctx: Context, checkpoint: Checkpoint):
        self.ctx, self.checkpoint = ctx, checkpoint
        self.stopped = False
        """Whether training ended before its last step because the run was asked to stop."""
        self.last: dict[str, float] = {}
        """The metrics of the last step."""
        self._start = self._saved = time.monotonic()
        self._first = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._first = state.global_step
        if self._first:
            self.ctx.note(f"going on after step {self._first} of {state.max_steps}")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        left = state.max_steps - state.global_step
        self.stopped = left > 0 and self.ctx.stopping()
        control.should_training_stop = control.should_training_stop or self.stopped
        control.should_save = self.stopped or (left > 0 and self._save_due(state.global_step))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        logs: dict[str, Any] = given["logs"]
        if "train_runtime" in logs:  # the summary at the end
            return
        self.last = {name: float(value) for name, value in logs.items() if isinstance(value, (int, float))}
        self.last["lr"] = self.last.pop("learning_rate", 0.0)
        pace = (time.monotonic() - self._start) / max(1, state.global_step - self._first)
        left = round(pace * (state.max_steps - state.global_step), 1)
        self.ctx.emit("step", step=state.global_step, steps=state.max_steps, **self.last, seconds_left=left)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = _folder(self.ctx)
        _mark(folder / f"checkpoint-{state.global_step}")
        for old in complete(folder)[: -self.checkpoint.keep]:
            shutil.rmtree(old, ignore_errors=True)
        self._saved = time.monotonic()
        self.ctx.saved()

    def _save_due(self, step: int) -> bool:
        if self.checkpoint.every:
            return step % self.checkpoint.every == 0
        return time.monotonic() - self._saved > SAVE_SECONDS


def newest(ctx: Context) -> Path | None:
    """The newest complete checkpoint of a stage. What a kill left half-written is removed."""
    folder = _folder(ctx)
    found = complete(folder)
    for path in set(folder.glob("checkpoint-*")) - set(found):
        shutil.rmtree(path, ignore_errors=True)
    return found[-1] if found else None


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first."""
    return sorted(filter(_is_complete, folder.glob("checkpoint-*")), key=lambda path: int(path.name.split("-")[1]))


def _folder(ctx: Context) -> Path:
    return ctx.work / "checkpoints"


def _mark(checkpoint: Path) -> None:
    sizes = {}
    for file in sorted(p for p in checkpoint.rglob("*") if p.is_file()):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        sizes[file.relative_to(checkpoint).as_posix()] = file.stat().st_size
    draft = checkpoint / f".{MARKER}"
    draft.write_text(json.dumps(sizes))
    draft.replace(checkpoint / MARKER)


def _is_complete(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / MARKER).read_text())
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False
