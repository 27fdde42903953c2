"""What the benchmarks share: a measurement in a process of its own, the machine, and figures with their spread."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "recipes/bench"
DATA = Path(os.environ.get("ALIGN_DATA", ROOT / "../shared"))
Row = dict[str, Any]


def alone(measure: Callable[..., Row], *arguments: Any) -> Row:
    """The measurement in a forked process, so that memory starts equal for all; what it prints goes nowhere."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=_quietly, args=(there, measure, arguments))
    process.start()
    row = here.recv()
    process.join()
    if isinstance(row, str):
        raise SystemExit(f"{arguments[-1]} failed:\n{row}")
    return row


def _quietly(there: Any, measure: Callable[..., Row], arguments: tuple[Any, ...]) -> None:
    """Sends the measurement, or the traceback."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    try:
        there.send(measure(*arguments))
    except BaseException:
        there.send(traceback.format_exc())


class Stopwatch:
    """Seconds of this process and of the wall."""

    cpu = 0.0
    wall = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall


def peak() -> float:
    """The most memory that this process ever had, in MB; it begins with what its parent had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine(**other: str) -> Row:
    """The machine and the versions of libraries. other: versions of those that are not the installed ones."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    packages = ("torch", "transformers", "trl", "accelerate", "datasets", "tokenizers")
    return {
        "date": date.today().isoformat(), "processor": names[0], "cores": len(names), "threads": 1,
        "python": platform.python_version(), "versions": {name: version(name) for name in packages} | other,
    }  # fmt: skip


def spread(values: list[float], digits: int) -> list[float]:
    """Median, lowest and highest."""
    return [round(value, digits) for value in (median(values), min(values), max(values))]


def say(text: str) -> None:
    print(text, flush=True)
