"""Long work item by item, written down as it is done, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from align.errors import Interrupted
from align.stage import Context

T = TypeVar("T")


def in_chunks(
    ctx: Context, what: str, items: Sequence[T], size: int, make: Callable[[Sequence[T]], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """The row that `make` makes of each item, `size` items at a time.

    The rows lie in the stage's work folder; those of chunks that an earlier run finished are read, not made again.
    """
    file = ctx.work / f"{what.replace(' ', '-')}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = _done(file)
    with file.open("a", encoding="utf-8") as out:
        while len(rows) < len(items):
            tell(ctx, what)(len(rows), len(items))
            made = make(items[len(rows) : len(rows) + size])
            out.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in made)
            out.flush()
            os.fsync(out.fileno())
            ctx.saved()
            rows += made
    ctx.emit("progress", what=what, done=len(rows), total=len(items))
    return rows


def tell(ctx: Context, what: str) -> Callable[[int, int], None]:
    """`progress(done, total)` that tells people how far it is, and stops where a signal asked to."""

    def progress(done: int, total: int) -> None:
        if ctx.stopping():
            raise Interrupted(signal.SIGINT, f"stopped while {what}: {done} of {total}")
        ctx.emit("progress", what=what, done=done, total=total)

    return progress


def _done(file: Path) -> list[dict[str, Any]]:
    """The rows of a file; what a kill left of a last line is cut off."""
    rows, end = [], 0
    if file.exists():
        with file.open("r+b") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                rows.append(json.loads(line))
                end += len(line)
            lines.truncate(end)
    return rows
