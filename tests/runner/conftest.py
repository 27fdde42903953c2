"""A recipe without torch in a folder of its own, its runs, and what they told."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from align.machine import Machine
from align.recipe import Recipe, load
from align.runner import Outcome, plan, run
from align.store import Store
from tests.kernel_stages import RECIPE, copy_to

PROGRAM = """
import json, sys
from pathlib import Path
from align.machine import Machine
from align.recipe import load
from align.runner import run
from align.store import Store
outcome = run(load("recipe.yaml"), Store(Path("store")), Machine(), emit=lambda e: print(json.dumps(e), flush=True))
sys.exit(outcome.exit_code)
"""


class Toy:
    """A recipe in a folder of its own, and everything that its runs told."""

    def __init__(self, folder: Path):
        self.folder, self.store, self.events = folder, Store(folder / "store"), []
        folder.mkdir(exist_ok=True)
        copy_to(folder)
        (folder / "recipe.yaml").write_text(RECIPE)

    def write(self, stage: str, more: str = "") -> None:
        """Another recipe, of one stage called a."""
        (self.folder / "recipe.yaml").write_text(f"plugins: [kernel_stages.py]\nstages: {{a: {stage}}}\n{more}\n")

    def recipe(self, *overrides: str) -> Recipe:
        return load(self.folder / "recipe.yaml", overrides)

    def run(self, *overrides: str, processes: int = 1, device: Any = "auto", **options: Any) -> Outcome:
        self.events.clear()
        machine = Machine(processes=processes, device=device, threads=1)
        return run(self.recipe(*overrides), self.store, machine, emit=self.events.append, **options)

    def told(self, *events: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] in events]

    @property
    def trace(self) -> list[str]:
        """Every step that was computed, by all runs so far."""
        return self._lines("trace")

    @property
    def checks(self) -> list[str]:
        return self._lines("checks")

    def _lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines() if (self.folder / name).exists() else []

    @contextlib.contextmanager
    def process(self) -> Iterator[subprocess.Popen[str]]:
        """A run in a process of its own, which can be killed."""
        command = [sys.executable, "-c", PROGRAM]
        started = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True)
        with started:
            yield started
            started.kill()

    def until(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not what():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)

    def paused(self) -> int:
        """Waits until a stage pauses; the worker's process id."""
        mark = self.folder / "paused"
        self.until(lambda: mark.exists() and mark.read_text() != "")
        return int(mark.read_text())


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


ALL = [f"{name} {step}" for name, steps in (("a", 3), ("b", 4), ("c", 5)) for step in range(steps)]


def key_of(toy: Toy, stage: str) -> str:
    return next(step.key for step in plan(toy.recipe(), toy.store).steps if step.stage == stage)


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
