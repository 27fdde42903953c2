"""Plugin stages without torch for the kernel's tests. FAULT in the environment says what goes wrong, and where."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from align.disk import sha256_of
from align.errors import CheckError, Interrupted
from align.stage import Context, Kind, PolicyRef, RecordsRef, Stage

RECIPE = """\
name: toy
plugins: [kernel_stages.py]
stages:
  a: {stage: count}
  b: {stage: count, after: $a, steps: 4}
  c: {stage: count, steps: 5}
"""


def fault(ctx: Context, what: str) -> bool:
    """Whether FAULT asks for this; once only, so that the next run comes through."""
    done = ctx.base / f"done-{what}-{ctx.stage}"
    if os.environ.get("FAULT") != f"{what}:{ctx.stage}" or done.exists():
        return False
    done.touch()
    return True


def kill(*arguments: object, **options: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Count(Stage):
    """Counts, a step at a time, and goes on from the last complete one. Leaves a trace of each step in `trace`."""

    name = "count"
    makes: ClassVar[Kind] = "records"

    after: RecordsRef | None = None
    """What must be there first."""
    steps: int = 3
    """How far."""
    gigabytes: float = 0
    """What the check predicts."""
    bad: bool = False
    """Whether the check refuses."""

    def check(self, ctx: Context) -> dict[str, Any]:
        with open(ctx.base / "checks", "a") as file:
            print(ctx.stage, file=file)
        if self.after:
            ctx[self.after]
        if self.bad:
            raise CheckError(f"{ctx.stage} is bad")
        return {"bytes": self.gigabytes * 1e9}

    def run(self, ctx: Context) -> dict[str, float]:
        mark = ctx.work / "step"
        for step in range(int(mark.read_text()) if mark.exists() else 0, self.steps):
            if ctx.stopping():
                raise Interrupted(signal.SIGINT)
            self._fail(ctx)
            with open(ctx.base / "trace", "a") as file:
                print(ctx.stage, step, file=file)
            mark.write_text(str(step + 1))
            ctx.saved()
            ctx.emit("step", step=step + 1, steps=self.steps)
        (ctx.out / "records.jsonl").write_text(f"{random.random()} {'torch' in sys.modules}\n")
        if fault(ctx, "kill-in-rename"):
            os.rename = kill
        if fault(ctx, "kill-in-commit"):
            shutil.copyfile = kill
        return {"steps": float(self.steps)}

    def _fail(self, ctx: Context) -> None:
        mark = ctx.work / "step"
        if not mark.exists() or mark.read_text() != "2":
            return
        if fault(ctx, "raise"):
            print("about to fail")
            raise ValueError("broken")
        if fault(ctx, "kill"):
            kill()
        if fault(ctx, "pause"):
            ctx.emit("note", level="info", text="paused")
            (ctx.base / "paused").write_text(str(os.getpid()))
            deadline = time.monotonic() + 30
            while not ctx.stopping() and not (ctx.base / "go").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
        if fault(ctx, "hang"):
            (ctx.base / "paused").write_text(str(os.getpid()))
            time.sleep(60)


class Grow(Stage):
    """Makes a policy of a policy."""

    name = "grow"
    makes: ClassVar[Kind] = "policy"

    policy: PolicyRef
    """What it grows from."""

    def check(self, ctx: Context) -> dict[str, Any]:
        return {"seen": Path(ctx.forerunner(self.policy).path).name}

    def run(self, ctx: Context) -> dict[str, float]:
        (ctx.out / "grown").touch()
        return {"known_as": float(int(sha256_of(ctx.keys[self.policy.name])[:8], 16))}


class Compared(Stage):
    """Leaves a comparison of one policy that nobody asked anything."""

    name = "compared"
    makes: ClassVar[Kind] = "report"

    broken: bool = False
    """Whether the comparison is damaged."""

    def run(self, ctx: Context) -> dict[str, float]:
        found = {"policies": {"base": {}}, "pairs": [], "verdicts": [], "notes": [], "better": {}, "settings": {}}
        (ctx.out / "comparison.json").write_text("{" if self.broken else json.dumps(found))
        return {}


class Together(Stage):
    """Adds up rank + 1 over the ranks, as accelerate tells them, and has each write a file."""

    name = "together"
    makes: ClassVar[Kind] = "report"
    distributed = True

    failing_rank: int = -1
    """Which rank raises."""

    def run(self, ctx: Context) -> dict[str, float]:
        import torch
        from accelerate import Accelerator

        accelerator = Accelerator()
        rank = accelerator.process_index
        if rank == self.failing_rank:
            raise ValueError(f"rank {rank} is broken")
        print(f"this is rank {rank}")
        ctx.emit("note", level="info", text=f"rank {rank}")
        (ctx.out / f"rank-{rank}").touch()
        total = accelerator.reduce(torch.tensor(rank + 1.0))
        return {"sum": float(total), "threads": float(torch.get_num_threads())}


def copy_to(folder: Path) -> None:
    shutil.copy(__file__, folder / "kernel_stages.py")
