"""What the benchmarks share: a measurement in a process of its own, the machine, and figures with their spread."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from align.bench.clock import name_of
from align.bench.run import spread
from align.bench.table import markdown

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


def peak() -> int:
    """The most memory that this process ever had, in bytes; it begins with what its parent had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device() -> str:
    """The processor, and that one thread of it is used."""
    return name_of(torch.device("cpu"))


def ratio(theirs: list[float], ours: list[float]) -> list[float]:
    """How many times as long they took, turn by turn: median, lowest and highest."""
    return spread([b / a for a, b in zip(ours, theirs, strict=True)])


def save(name: str, settings: Row, tasks: dict[str, Row], **other: str) -> None:
    """Keeps figures in the shape of `align.bench.table`, and prints their table.

    other: versions of libraries that are not the installed ones.
    """
    packages = ("torch", "transformers", "trl", "accelerate", "datasets", "tokenizers")
    result = {
        "date": date.today().isoformat(), "python": platform.python_version(),
        "versions": {package: version(package) for package in packages} | other, "settings": settings,
        "command": " ".join(["python", f"tests/bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]), "tasks": tasks,
    }  # fmt: skip
    (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n")
    say(f"\n{markdown([result])}")


def say(text: str) -> None:
    print(text, flush=True)
