"""`align plan`: what will run and why; nothing is computed."""

from __future__ import annotations

import subprocess
import sys


def rows(out: str) -> list[str]:
    return [" ".join(line.split()) for line in out.splitlines()]


def test_a_plan_says_what_will_run_and_from_what(align):
    planned = align("plan", "toy")
    assert planned.code == 0
    assert rows(planned.out) == [
        "toy seed 0 toy.yaml",
        "▸ a count run: never run",
        "▸ b count <- a run: never run",
        "▸ c count run: never run",
        "3 to run, 0 cached",
    ]


def test_a_plan_names_what_changed_since_the_last_run(align):
    align("run", "toy")
    planned = rows(align("plan", "toy", "a.steps=6").out)
    assert planned[1] == "▸ a count run: changed: steps: default -> 6"
    assert planned[2] == "▸ b count <- a run: changed: input a"
    assert planned[3].startswith("✓ c count cached: made ")
    assert planned[-1] == "2 to run, 1 cached"


def test_warnings_have_their_place(align, recipe):
    recipe.write_text(recipe.read_text() + "models:\n  spare: {path: some/model}\n")
    assert "warning: toy.yaml:8: models.spare: no stage refers to it" in align("plan", "toy").out


def test_check_runs_the_preflights_and_no_stage(align, tmp_path):
    checked = align("plan", "toy", "--check")
    assert checked.code == 0
    assert rows(checked.out)[-3:] == [
        "a: bytes 0 B",
        "b: needs the result of 'a' first; checked again before it runs",
        "c: bytes 0 B",
    ]
    assert not (tmp_path / "trace").exists()


def test_a_refusing_check_is_exit_1(align):
    checked = align("plan", "toy", "c.bad=true", "--check")
    assert checked.code == 1
    assert "c: c is bad" in checked.out


def test_help_plan_and_refusals_import_no_torch(recipe):
    program = """
import contextlib, sys
from align.cli import main
for arguments in (["--help"], ["run", "--help"], ["plan", "toy"], ["plan", "toy", "a.stepz=1"], ["run", "toy", "x=1"],
                  ["schema"], ["history"], ["gc"]):
    sys.argv = ["align", *arguments]
    with contextlib.suppress(SystemExit):
        main()
    heavy = {"torch", "transformers", "datasets", "trl", "peft", "accelerate"} & sys.modules.keys()
    assert not heavy, (arguments, heavy)
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], cwd=recipe.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
