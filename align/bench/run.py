"""Measurements in processes of their own, in turns, so that memory is known and neighbours show as spread."""

from __future__ import annotations

import multiprocessing
import os
import platform
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from statistics import median
from typing import Any

from align.bench import trl
from align.bench.tasks import BETA, CENTERING, Order, Reading, measure
from align.errors import AlignError

TOLERANCE = 1e-3
"""Largest difference of a step's loss between two sides that do the same work."""
FINALISTS = 2
"""TRL's settings that are measured on all rows: the fastest on a few."""
PACKAGES = ("torch", "transformers", "trl", "accelerate")
Say = Callable[[str], None]


def alone(order: Order) -> Reading:
    """The measurement in a forked process, so that memory starts equal and nothing is left of the one before."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=_quietly, args=(there, order))
    process.start()
    there.close()
    try:
        found = here.recv()
    except EOFError:
        found = "the process died, perhaps for want of memory"
    process.join()
    if isinstance(found, str):
        raise AlignError(f"bench {order.task}: {found}")
    return found


def _quietly(there: Any, order: Order) -> None:
    """Sends the measurement, or the traceback; what libraries print goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    try:
        there.send(measure(order))
    except BaseException:
        there.send(traceback.format_exc())


def measured(order: Order, repetitions: int, say: Say) -> dict[str, Any]:
    """Figures of a task: medians with the lowest and the highest."""
    rows = []
    for turn in range(repetitions):
        rows.append(alone(order))
        say(f"{order.task}, {turn + 1} of {repetitions}: {rows[-1].seconds:.1f} s")
    return figures(rows)


def against_trl(order: Order, repetitions: int, say: Say) -> dict[str, Any]:
    """The same, beside TRL at its fastest: all its settings on a quarter of the rows, then turns on all of them; and
    beside TRL as it comes, on that quarter."""
    size = order.batch
    few = replace(order, lengths=order.lengths[: max(size, len(order.lengths) // 4 // size * size)])
    own = alone(few)
    tried: dict[trl.Setting, Reading] = {}
    for setting in trl.settings(order.task, size):
        tried[setting] = alone(replace(few, rival=setting))
        say(f"{order.task}, TRL, {setting}: {tried[setting].seconds:.1f} s for {len(few.lengths)} rows")
    finalists = sorted(tried, key=lambda setting: tried[setting].seconds)[:FINALISTS]
    turns: dict[trl.Setting | None, list[Reading]] = {side: [] for side in (None, *finalists)}
    for turn in range(repetitions):
        for side, rows in turns.items():
            rows.append(alone(replace(order, rival=side)))
            name = "align" if side is None else f"TRL, {side}"
            say(f"{order.task}, {name}, {turn + 1} of {repetitions}: {rows[-1].seconds:.1f} s")
    best = min(finalists, key=lambda side: median(row.seconds for row in turns[side]))
    ratios = [theirs.seconds / ours.seconds for ours, theirs in zip(turns[None], turns[best], strict=True)]
    whole = next(setting for setting in tried if setting.micro == size)
    once = tried[whole].seconds / own.seconds
    return figures(turns[None]) | {
        "beside": [
            {
                "what": "TRL at its fastest", "setting": str(best), "times_faster": spread(ratios),
                **figures(turns[best]),
            },
            {
                "what": "TRL as it comes", "setting": str(whole), "times_faster": spread([once]),
                "peak_bytes": tried[whole].peak_bytes,
            },
        ],
        "tried": {str(setting): row.seconds / row.examples for setting, row in tried.items()},
        "loss_difference": agreement([rows[0] for rows in turns.values()]),
    }  # fmt: skip


def agreement(rows: Sequence[Reading]) -> float:
    """The largest difference of any step's loss from the first side's. Raises AlignError if the work differs."""
    worst = max(abs(a - b) for row in rows for a, b in zip(rows[0].losses, row.losses, strict=True))
    if not worst <= TOLERANCE:
        raise AlignError(f"the two sides did not do the same work: losses of a step differ by {worst:.1e}")
    return worst


def figures(rows: Sequence[Reading]) -> dict[str, Any]:
    """Medians over repetitions, with the lowest and the highest; memory is the most there was."""
    first = rows[0]
    return {
        "device": first.device,
        "examples": first.examples,
        "tokens": first.tokens,
        "seconds_each": spread([row.seconds / row.examples for row in rows]),
        "unit": "examples",
        "per_second": spread([row.examples / row.seconds for row in rows]),
        "tokens_per_second": spread([row.tokens / row.seconds for row in rows]),
        "wall_seconds": spread([row.wall for row in rows]),
        "peak_bytes": max(row.peak_bytes for row in rows),
        "useful_operations": first.useful,
        "matrix_rate": spread([row.rate for row in rows]),
        "useful_utilisation": spread([row.utilisation for row in rows]),
        "mfu": spread([row.mfu for row in rows if row.mfu is not None]) if first.mfu else None,
        "phases": {
            name: {
                "seconds_each": spread([row.phases[name][0] / row.examples for row in rows]),
                "useful_utilisation": spread([needed / (row.phases[name][0] * row.rate) for row in rows]),
            }
            for name, (_, needed) in first.phases.items()
        },
        "parts": {name: median(row.parts.get(name, 0.0) for row in rows) for name in first.parts},
    }


def spread(values: Sequence[float]) -> list[float]:
    """Median, lowest and highest."""
    return [float(f"{value:.4g}") for value in (median(values), min(values), max(values))]


def circumstances(order: Order) -> dict[str, Any]:
    """The day, the versions and the settings that figures belong to."""
    return {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "settings": {
            "model": order.shape, "dtype": order.dtype, "rows": len(order.lengths), "seed": order.seed,
            "machine": order.machine.model_dump(mode="json", exclude={"store"}, exclude_defaults=True),
            "optim": order.optim.model_dump(mode="json"), "beta": BETA, "centering": CENTERING,
        },
    }  # fmt: skip
