"""Recipes with a loop whose policies are numbers: each round adds `step`, and comparisons know everything to 0.5.

`good` is the policy's number, `worn` is 0 up to 2 and rises by 2 a step from there on.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from align.machine import Machine
from align.recipe import load
from align.runner import Outcome, plan, run
from align.store import Store

LOOP = """\
name: loops
plugins: [loop_stages.py]
models:
  base: {path: model}
data:
  demos: {path: demos.jsonl}
stages:
  sft: {stage: improve, policy: $base, step: 0}
  cai:
    rounds: 2
    start: {policy: $sft}
    stages:
      told: {stage: contrast, policies: [$policy, $tune]}
      tune: {stage: improve, policy: $policy, data: $said}
      said: {stage: write, policy: $policy}
    next: {policy: $tune}
    gate: {metric: worn, max_increase: 0.5}
  after: {stage: improve, policy: $cai, data: $demos}
  result: {stage: contrast, policies: [$sft, $cai, $after]}
"""

ROUND = ["said", "tune", "told", "gate"]


class Folder:
    """A recipe with a loop in a folder of its own, and what its runs told."""

    def __init__(self, path: Path):
        self.path, self.store, self.events = path, Store(path / "store"), []
        shutil.copy(Path(__file__).parent / "loop_stages.py", path)
        (path / "model").mkdir()
        (path / "demos.jsonl").write_text('{"text": "a demonstration"}\n')
        self.write(LOOP)

    def write(self, text: str) -> None:
        (self.path / "r.yaml").write_text(text)

    def recipe(self, *overrides: str, smoke: bool = False) -> Any:
        return load(self.path / "r.yaml", overrides, smoke=smoke)

    def plan(self, *overrides: str, **options: Any) -> dict[str, str]:
        return {step.stage: step.state for step in plan(self.recipe(*overrides), self.store, **options).steps}

    def run(self, *overrides: str, **options: Any) -> Outcome:
        self.events.clear()
        (self.path / "trace").write_text("")
        return run(self.recipe(*overrides), self.store, Machine(threads=1), emit=self.events.append, **options)

    @property
    def trace(self) -> list[str]:
        """The stages that the last run computed, gates left out."""
        return (self.path / "trace").read_text().split()

    def told(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event]

    def value(self, name: str) -> float:
        return float((self.store.root / "loops" / name / "value").read_text())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


def names(round_: int) -> list[str]:
    return [f"cai@{round_}.{stage}" for stage in ROUND]
