"""What is left after a kill or a signal at any moment."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime
from typing import Any

import pytest

import align.runner
from tests.runner.conftest import ALL, Toy, key_of, lives


def test_after_a_failure_comes_a_new_worker_and_a_signal_meanwhile_reaches_it(toy: Toy, monkeypatch) -> None:
    started = []

    class Signalled(align.runner.Workers):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options)
            started.append(self)
            if len(started) == 2:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(align.runner, "Workers", Signalled)
    monkeypatch.setenv("FAULT", "raise:a")
    outcome = toy.run()
    assert len(started) == 2 and not started[0].alive
    assert outcome.states == {"a": "failed", "b": "skipped", "c": "interrupted"}
    assert outcome.exit_code == 130


def test_a_worker_that_dies_fails_its_stage_only(toy: Toy, monkeypatch) -> None:
    monkeypatch.setenv("FAULT", "kill:a")
    outcome = toy.run()
    assert outcome.states == {"a": "failed", "b": "skipped", "c": "finished"}
    assert "killed by SIGKILL; did it run out of memory?" in outcome.errors["a"]
    assert toy.told("stage_failed")[0]["log"] == str(toy.store.work(key_of(toy, "a")) / "log.txt")
    assert toy.run().states == {"c": "cached", "a": "finished", "b": "finished"}
    assert sorted(toy.trace) == sorted(ALL)


@pytest.mark.parametrize(("fault", "state"), [("kill-in-commit", "finished"), ("kill-in-rename", "cached")])
def test_a_kill_after_the_last_step_costs_no_step(toy: Toy, monkeypatch, fault: str, state: str) -> None:
    monkeypatch.setenv("FAULT", f"{fault}:a")
    assert toy.run(until="a").states == {"a": "failed"}
    outcome = toy.run(until="a")
    assert outcome.states == {"a": state}
    assert outcome.artifacts["a"].damage() == []
    assert toy.trace == ["a 0", "a 1", "a 2"]


def test_a_killed_run_takes_its_worker_along_and_the_next_goes_on(toy: Toy, monkeypatch) -> None:
    monkeypatch.setenv("FAULT", "hang:b")
    with toy.process() as process:
        worker = toy.paused()
        process.kill()
        toy.until(lambda: not lives(worker))
    assert toy.run().states == {"a": "cached", "b": "finished", "c": "finished"}
    assert toy.trace == ALL


def test_the_time_of_what_a_kill_left_counts_and_the_time_of_what_it_took_does_not(toy: Toy, monkeypatch) -> None:
    monkeypatch.setenv("FAULT", "kill:a")
    toy.run(until="a")
    file = toy.store.work(key_of(toy, "a")) / "events.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert [event["event"] for event in events] == ["stage_started", "saved", "step", "saved", "step"]
    events[0]["time"] -= 5000  # as if the first two steps had taken so long
    events.append(events[-1] | {"step": 3, "time": events[-1]["time"] + 7000})  # not saved
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    made = toy.run(until="a").artifacts["a"].manifest
    (finished,) = toy.told("stage_finished")
    assert 5000 <= made["seconds"] < 5060
    assert finished["seconds"] == made["seconds"]
    assert datetime.fromisoformat(made["started"]).timestamp() == int(events[0]["time"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_the_next_run_goes_on(toy: Toy, monkeypatch, number: int) -> None:
    monkeypatch.setenv("FAULT", "pause:b")
    with toy.process() as process:
        toy.paused()
        process.send_signal(number)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert '"interrupted"' in said and "the same command goes on" in said
    assert toy.run().exit_code == 0
    assert toy.trace == ALL


def test_a_second_signal_stops_a_stage_that_does_not_listen(toy: Toy, monkeypatch) -> None:
    monkeypatch.setenv("FAULT", "hang:a")
    with toy.process() as process:
        worker = toy.paused()
        process.send_signal(signal.SIGINT)
        assert process.stdout
        while "once more stops at once" not in process.stdout.readline():
            assert process.poll() is None
        assert lives(worker)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert '"interrupted"' in said and '"stage_failed"' not in said
    assert not lives(worker)
    assert toy.run().exit_code == 0
    assert toy.trace == ALL


def test_of_two_runs_at_once_the_second_waits_and_reuses(toy: Toy, monkeypatch) -> None:
    monkeypatch.setenv("FAULT", "pause:a")
    with toy.process() as first:
        worker = toy.paused()
        with toy.process() as second:
            assert second.stdout
            while f"waiting for process {worker}" not in second.stdout.readline():
                assert second.poll() is None
            (toy.folder / "go").touch()
            said, _ = second.communicate(timeout=30)
            first.communicate(timeout=30)
    assert (first.returncode, second.returncode) == (0, 0)
    assert '"stage_cached", "stage": "a"' in said
    assert sorted(toy.trace) == sorted(ALL)
