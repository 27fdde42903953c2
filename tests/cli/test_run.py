"""`align run`: what it prints and how it exits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest


def test_a_log_of_a_run_is_a_few_lines(align):
    ran = align("run", "toy")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert [lines[0], *lines[-2:]] == ["toy: 3 stages", "", "runs/toy: 3 finished"]
    assert len(lines) == 1 + 3 * 2 + 2
    assert align("run", "toy").out.splitlines()[-1] == "runs/toy: 3 cached"


def test_overrides_and_until_choose_what_runs(align):
    ran = align("run", "toy", "b.steps=2", "--until", "b")
    assert ran.code == 0
    assert "b: 0s  steps 2" in ran.out
    assert "c: started" not in ran.out


def test_a_failed_stage_is_exit_1_with_its_log(align, monkeypatch):
    monkeypatch.setenv("FAULT", "raise:a")
    ran = align("run", "toy")
    assert ran.code == 1
    assert "a failed: ValueError: broken" in ran.out
    assert "log: runs/.store/work/" in ran.out
    assert "b: skipped: 'a' failed" in ran.out
    assert ran.out.splitlines()[-1] == "runs/toy: 1 finished, 1 failed, 1 skipped"


def test_a_wrong_recipe_is_exit_2_with_every_problem_in_its_place(align, recipe):
    recipe.write_text(recipe.read_text().replace("steps: 4", "stepz: 4").replace("$a", "$aa"))
    ran = align("run", "toy")
    assert ran.code == 2
    assert "toy.yaml:5: stages.b.stepz: unknown key 'stepz'. Did you mean 'steps'?" in ran.err
    assert "toy.yaml:5: stages.b.after: " in ran.err
    assert "'aa'. Did you mean 'a'?" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "nothing-of-this-name"),
        ("run", "toy", "--processes", "0"),
        ("run", "toy", "--device", "abacus"),
        ("run", "toy", "--until", "nowhere"),
        ("run", "toy", "--no-such-option"),
        ("no-such-verb",),
    ],
)
def test_a_wrong_command_is_exit_2(align, arguments):
    ran = align(*arguments)
    assert ran.code == 2
    assert "Traceback" not in ran.err


def test_machine_settings_come_from_options_before_variables(align, monkeypatch, tmp_path):
    monkeypatch.setenv("ALIGN_STORE", "elsewhere")
    assert align("run", "toy", "--only", "c").code == 0
    assert (tmp_path / "elsewhere" / ".store").is_dir()
    assert align("run", "toy", "--only", "c", "--store", "here").code == 0
    assert (tmp_path / "here" / ".store").is_dir()


def test_json_is_one_event_a_line_and_nothing_else(align):
    events = [json.loads(line) for line in align("run", "toy", "--json").out.splitlines()]
    assert events[0]["event"] == "run_started"
    assert events[-1] == events[-1] | {"event": "run_finished", "exit_code": 0}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_exit_130_or_143_and_the_run_goes_on_later(align, recipe, number):
    command = [sys.executable, "-P", "-m", "align", "run", "toy"]
    running = subprocess.Popen(
        command, cwd=recipe.parent, env=os.environ | {"FAULT": "pause:b"}, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not (recipe.parent / "paused").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(number)
    out, _ = running.communicate(timeout=30)
    assert running.returncode == 128 + number
    assert "the same command goes on from there" in out
    assert align("run", "toy").code == 0
    trace = (recipe.parent / "trace").read_text().split("\n")
    assert trace.count("b 0") == trace.count("b 1") == 1
