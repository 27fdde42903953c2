"""Rows of a run, from events with times set by hand."""

from __future__ import annotations

import pytest

from align.cli.progress import WINDOW, Progress


@pytest.fixture
def progress() -> Progress:
    made = Progress()
    made.add({"event": "run_started", "recipe": "toy", "stages": {"sft": "sft", "dpo": "dpo"}}, now=0.0)
    return made


def steps(progress: Progress, times: list[float], total: int = 100) -> None:
    for step, now in enumerate(times, 1):
        progress.add({"event": "step", "stage": "sft", "step": step, "steps": total, "loss": 1.0}, now)


def test_stages_wait_in_the_recipes_order(progress):
    assert [(row.name, row.state) for row in progress.rows.values()] == [("sft", "waiting"), ("dpo", "waiting")]


def test_time_left_is_the_rest_at_the_pace_so_far(progress):
    steps(progress, [10.0, 12.0, 14.0])  # 2 s a step, 97 steps to go
    assert progress.rows["sft"].steps.left(now=14.0) == pytest.approx(194.0)
    assert progress.rows["sft"].steps.left(now=15.0) == pytest.approx(193.0)  # and a second later a second less


def test_time_left_forgets_how_slow_the_beginning_was(progress):
    slow = [100.0 * i for i in range(1, 4)]
    steps(progress, slow + [300.0 + i for i in range(1, WINDOW + 1)])  # then 1 s a step; 77 to go
    assert progress.rows["sft"].steps.left(now=320.0) == pytest.approx(77.0)


def test_no_time_left_is_told_from_one_step(progress):
    steps(progress, [10.0])
    assert progress.rows["sft"].steps.left(now=11.0) is None


def test_another_activity_starts_its_own_clock(progress):
    for done, now in ((10, 0.0), (20, 1.0)):
        progress.add({"event": "progress", "stage": "sft", "what": "tokens", "done": done, "total": 20}, now)
    steps(progress, [500.0])
    row = progress.rows["sft"]
    assert (row.doing, row.steps.done, row.steps.total) == ("", 1, 100)
    assert row.steps.left(now=501.0) is None


def test_what_is_done_between_steps_hides_neither_them_nor_the_time_left(progress):
    """A step each 4 s of which 97 are to go; half of a rollout takes 1 s."""
    for step in range(1, 4):
        for done in (32, 64):
            event = {"event": "progress", "stage": "sft", "what": "rollout", "done": done, "total": 64}
            progress.add(event, 4.0 * step + done / 32)
        if step < 3:
            progress.add({"event": "step", "stage": "sft", "step": step, "steps": 99}, 4.0 * step + 3)
    row = progress.rows["sft"]
    assert (str(row.steps), row.doing, str(row.part)) == ("2/99", "rollout", "64/64")
    assert row.steps.left(now=11.0) == pytest.approx(97 * 4.0)
    assert row.part.left(now=11.0) is None


def test_metrics_of_a_step_leave_its_bookkeeping_out(progress):
    progress.add({"event": "step", "stage": "sft", "time": 1e9, "step": 1, "steps": 2, "loss": 0.5, "lr": 1e-3}, 0.0)
    assert progress.rows["sft"].numbers == {"loss": 0.5, "lr": 1e-3}


def test_a_failure_keeps_its_reason_log_and_time(progress):
    progress.add({"event": "stage_started", "stage": "sft"}, now=5.0)
    progress.add({"event": "stage_failed", "stage": "sft", "error": "no rows", "log": "log.txt"}, now=9.0)
    row = progress.rows["sft"]
    assert (row.state, row.detail, row.log, row.seconds) == ("failed", "no rows", "log.txt", 4.0)


def test_a_failed_check_took_no_time(progress):
    progress.add({"event": "stage_failed", "stage": "sft", "error": "no rows", "log": None}, now=9.0)
    assert (progress.rows["sft"].seconds, progress.rows["sft"].log) == (0.0, "")


def test_notes_and_unknown_events_change_no_row(progress):
    progress.add({"event": "note", "stage": "sft", "level": "warning", "text": "3 rows dropped"}, now=1.0)
    progress.add({"event": "stage_dreamt", "stage": "sft"}, now=1.0)
    progress.add({"event": "run_finished", "exit_code": 0}, now=1.0)
    assert progress.notes == [("sft", "warning", "3 rows dropped")]
    assert progress.count("waiting") == 2
