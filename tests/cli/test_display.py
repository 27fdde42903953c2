"""What people see of a run: a table at two widths, lines in a log, JSON."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from align.cli.display import LOG_SECONDS, JsonLines, LiveTable, LogLines

STAGES = {"base": "pretrain", "sft": "sft", "reward": "reward_model", "dpo": "dpo", "result": "compare"}
LONG = "no stop id is supervised in 2,000 of 2,000 rows, so that the model would never learn to end a reply"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def told(display, clock: Clock) -> None:
    """A run in which one stage is cached, one done, one at work, one failed and one skipped."""
    display({"event": "run_started", "recipe": "quickstart", "stages": STAGES})
    display({"event": "stage_cached", "stage": "base", "metrics": {"loss": 1.25}})
    display({"event": "stage_started", "stage": "sft"})
    display({"event": "note", "stage": "sft", "level": "warning", "text": "12 rows are too long"})
    display({"event": "stage_finished", "stage": "sft", "seconds": 52.3, "metrics": {"loss": 0.5, "accuracy": 0.75}})
    display({"event": "stage_failed", "stage": "dpo", "error": LONG, "log": "log.txt"})
    display({"event": "stage_skipped", "stage": "result", "because": "'dpo' failed"})
    display({"event": "stage_started", "stage": "reward"})
    for step in range(1, 61):
        clock.now += 2
        rate = {"tokens_per_second": 5120.0}
        display(
            {"event": "step", "stage": "reward", "step": step, "steps": 400, "loss": 0.612, "accuracy": 0.681, **rate}
        )


def table(width: int) -> list[str]:
    clock, console = Clock(), Console(width=width, record=True, force_terminal=True, file=io.StringIO())
    display = LiveTable(console, clock)
    told(display, clock)
    console.export_text()  # the note
    console.print(display.render())
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_the_table_fits_80_columns():
    assert table(80) == [
        "quickstart  4 of 5 stages  2m 00s",
        "✓  base    cached  loss 1.25",
        "✓  sft     52s  loss 0.5  accuracy 0.75",
        "⠋  reward  60/400  ━╸━━━━━━━━  11m 20s left  loss 0.612  accuracy 0.681  5.1k t…",
        "✗  dpo     failed after 0s: no stop id is supervised in 2,000 of 2,000 rows, so…",
        "-  result  skipped: 'dpo' failed",
    ]


def test_the_table_uses_120_columns():
    lines = table(120)
    assert lines[2] == "✓  sft     sft           52s  loss 0.5  accuracy 0.75"
    steps, rest = lines[3].replace("╸", "━").replace("╺", "━").split("━" * 24)
    assert steps == "⠋  reward  reward_model  60/400  "
    assert rest == "  11m 20s left  loss 0.612  accuracy 0.681  5.1k tok/s"


def test_the_table_says_that_nothing_runs_before_the_checks_are_through():
    clock, console = Clock(), Console(width=80, record=True, file=io.StringIO())
    display = LiveTable(console, clock)
    display({"event": "run_started", "recipe": "toy", "stages": {"a": "sft", "b": "dpo"}})
    display({"event": "stage_checked", "stage": "a", "figures": {"rows": 2000, "bytes": 4_200_000}, "pending": None})
    console.print(display.render())
    assert [line.rstrip() for line in console.export_text().splitlines()] == [
        "toy  0 of 2 stages  checking  0s",
        "·  a  rows 2,000  bytes 4.2 MB",
        "·  b",
    ]


def test_a_terminal_gets_the_table_and_the_notes():
    clock, file = Clock(), io.StringIO()
    with LiveTable(Console(width=80, force_terminal=True, file=file), clock) as display:
        told(display, clock)
    assert "sft: warning: 12 rows are too long" in file.getvalue()
    assert "skipped: 'dpo' failed" in file.getvalue()


def test_a_log_gets_whole_lines_and_few_of_them():
    clock, file = Clock(), io.StringIO()
    with LogLines(Console(width=40, file=file), clock) as display:
        told(display, clock)
    lines = file.getvalue().splitlines()
    assert lines[:8] == [
        "quickstart: 5 stages",
        "base: cached  loss 1.25",
        "sft: started",
        "sft: warning: 12 rows are too long",
        "sft: 52s  loss 0.5  accuracy 0.75",
        f"dpo: failed after 0s: {LONG}",
        "result: skipped: 'dpo' failed",
        "reward: started",
    ]
    assert lines[8] == "reward: 8/400  13m 04s left  loss 0.612  accuracy 0.681  5.1k tok/s"
    assert len(lines[8:]) == 120 // (LOG_SECONDS + 1)  # a step each 2 s, so a line each 16


def test_a_policy_that_learns_from_rewards_shows_them_and_what_it_says():
    clock, file = Clock(), io.StringIO()
    with LogLines(Console(width=40, file=file), clock) as display:
        display({"event": "run_started", "recipe": "toy", "stages": {"ppo": "ppo"}})
        display({"event": "stage_started", "stage": "ppo"})
        said = {"prompt": "word " * 15 + "What is\na fox?", "reply": "A  fox\nis"}
        display({"event": "sample", "stage": "ppo", "step": 1, "reward": 1.23456, **said})
        clock.now += LOG_SECONDS + 1
        step = {"event": "step", "stage": "ppo", "steps": 9, "loss": 0.5, "kl": 0.01, "reward": 1.5}
        speed = {"rollout_tokens_per_second": 4321.0, "update_tokens_per_second": 987.0}
        display(step | speed | {"step": 1})
        clock.now += LOG_SECONDS + 1
        display({"event": "progress", "stage": "ppo", "what": "rollout", "done": 3, "total": 8})
        display(step | {"step": 2})
        clock.now += LOG_SECONDS
        display({"event": "progress", "stage": "ppo", "what": "rollout", "done": 2, "total": 8})
    lines = file.getvalue().splitlines()
    assert lines[2] == f"ppo: step 1, reward 1.23: …{'word ' * 11}What is a fox? → A fox is"
    assert lines[3:] == [
        "ppo: 1/9  reward 1.5  kl 0.01  loss 0.5  rollout 4.3k tok/s  update 987 tok/s",
        "ppo: 1/9  rollout 3/8  reward 1.5  kl 0.01  loss 0.5",
        "ppo: 2/9  rollout 2/8  1m 37s left  reward 1.5  kl 0.01  loss 0.5",
    ]


def test_programs_get_every_event():
    file = io.StringIO()
    with JsonLines(file) as display:
        told(display, Clock())
    events = [json.loads(line) for line in file.getvalue().splitlines()]
    assert len(events) == 8 + 60
    assert events[-1]["step"] == 60


@pytest.mark.parametrize("markup", ["[red]x[/red]", "[/]", "a [link=x]"])
def test_texts_from_a_stage_are_no_markup(markup):
    for shown in (LogLines, LiveTable):
        console = Console(width=80, record=True, file=io.StringIO())
        display = shown(console, Clock())
        display({"event": "run_started", "recipe": markup, "stages": {"a": "sft"}})
        display({"event": "note", "stage": "a", "level": "info", "text": markup})
        assert markup in console.export_text()
