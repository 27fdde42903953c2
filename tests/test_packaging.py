"""What an installed wheel has: the command, the recipes, the reward models."""

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


def test_the_constraints_satisfy_every_requirement():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {line.partition("==")[0].lower().replace("_", "-"): line.partition("==")[2] for line in lines}
    for requirement in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["dev"]]):
        assert requirement.specifier.contains(pins[requirement.name.lower().replace("_", "-")]), requirement
    assert pins["torch"] == "2.13.0"


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
