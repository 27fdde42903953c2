"""What an installed wheel has: the command, the recipes, the reward models; and which libraries it gets on with."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OLDEST = ROOT / "tests" / "constraints-oldest.txt"
MEETING = (
    "tests/models/test_policy.py", "tests/models/test_heads.py", "tests/generate/test_hf.py",
    "tests/generate/test_continuous.py", "tests/stages/test_trl.py", "tests/data/test_sources.py",
    "tests/cli/test_verbs.py", "tests/cli/test_describe.py", "tests/web", "tests/evals/test_rates.py",
)  # fmt: skip
"""Tests that meet transformers, peft, trl, datasets, pydantic, typer, starlette and statsmodels."""


def pins(file: Path) -> dict[str, str]:
    lines = [line.partition("==") for line in file.read_text().splitlines() if not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, _, version in lines}


def test_the_constraints_satisfy_every_requirement():
    pinned = pins(ROOT / "constraints.txt")
    for requirement in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]):
        assert requirement.specifier.contains(pinned[requirement.name.lower().replace("_", "-")]), requirement
    assert pinned["torch"] == "2.13.0"


def test_the_oldest_constraints_are_the_lower_bounds():
    """Bounds without a patch level admit its first release; torch's own is not to be had for the CPU."""
    pinned = pins(OLDEST)
    for requirement in map(Requirement, PROJECT["dependencies"]):
        version = pinned.pop(requirement.name.lower().replace("_", "-"))
        (bound,) = (part.version for part in requirement.specifier if part.operator == ">=")
        assert requirement.specifier.contains(version), requirement
        assert requirement.name == "torch" or f"{version}.".startswith(f"{bound}."), requirement
    assert not pinned


@pytest.mark.slow
def test_the_oldest_libraries_allowed_will_do(tmp_path):
    """Trap 27: a library renamed an option."""
    _run(sys.executable, "-m", "venv", str(tmp_path))
    python = str(tmp_path / "bin" / "python")
    _run(python, "-m", "pip", "install", "--quiet", "-c", str(OLDEST), str(ROOT), "pytest", cwd=tmp_path)
    _run(python, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *MEETING, cwd=ROOT)


@pytest.mark.slow
def test_an_installed_wheel_plans_the_quickstart_in_an_empty_folder(tmp_path):
    built, site, empty = tmp_path / "built", tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built), cwd=ROOT)
    wheel = next(built.glob("*.whl"))
    inside = zipfile.ZipFile(wheel).namelist()
    for folder in ("recipes", "reward_models"):
        files = {p.relative_to(ROOT / folder).as_posix() for p in (ROOT / folder).rglob("*.yaml")}
        assert files and {f"align/_{folder}/{name}" for name in files} <= set(inside)
    assert {"align/cli/starter.yaml", *(f"align/web/page.{kind}" for kind in ("html", "css", "js"))} <= set(inside)
    _run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel))
    environment = os.environ | {"PYTHONPATH": str(site)}
    where = _run(sys.executable, "-P", "-c", "import align; print(align.__file__)", cwd=empty, env=environment)
    assert where.startswith(str(site))
    planned = _run(str(site / "bin" / "align"), "plan", "quickstart", cwd=empty, env=environment)
    assert str(site / "align" / "_recipes" / "quickstart") in planned
    assert "to run, 0 cached" in planned


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
