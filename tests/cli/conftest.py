"""A small recipe without torch, and the command line run inside the test's process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from align.cli import main
from tests.kernel_stages import RECIPE, copy_to


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`toy.yaml` in an empty folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    copy_to(tmp_path)
    file = tmp_path / "toy.yaml"
    file.write_text(RECIPE)
    return file


@pytest.fixture
def align(recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`align("plan", "toy")` runs the command in the recipe's folder."""

    def command(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["align", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(int(ended.value.code or 0), *capsys.readouterr())

    return command
