"""One worker process, spoken to by its own protocol."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from align.machine import Machine
from align.worker.job import Input, Job
from align.worker.manifest import kept
from align.worker.process import PATIENCE, open_lines

STAGES = '''
"""Stages that show what a worker does around them."""
import gc, os, random, subprocess, sys, time
from typing import ClassVar

from align.stage import Context, RecordsRef, Stage


class Print(Stage):
    """Prints in every way there is."""

    name = "print"
    makes = "report"

    def run(self, ctx: Context) -> dict[str, float]:
        print("from print")
        print("from stderr", file=sys.stderr)
        os.write(1, b"from the descriptor\\n")
        subprocess.run(["echo", "from a child"], check=True)
        (ctx.out / "read").write_text(repr(sys.stdin.read()))
        return {"wide": 2}


class Hang(Stage):
    """Never ends."""

    name = "hang"
    makes = "report"

    def run(self, ctx: Context) -> dict[str, float]:
        time.sleep(60)
        return {}


class Leave(Stage):
    """Ends the interpreter, as libraries do."""

    name = "leave"
    makes = "report"

    def run(self, ctx: Context) -> dict[str, float]:
        sys.exit("enough")


class Ask(Stage):
    """Looks at its inputs."""

    name = "ask"
    makes = "report"
    inner: RecordsRef
    """An input."""

    def check(self, ctx: Context) -> dict[str, str]:
        ctx.note("looked")
        return {"seen": ctx[self.inner].path, "key": ctx.keys[self.inner.name]}

    def run(self, ctx: Context) -> dict[str, float]:
        self.check(ctx)
        return {}


class Slip(Stage):
    """Has a mistake in its check."""

    name = "slip"
    makes = "report"

    def check(self, ctx: Context) -> dict[str, int]:
        return {"share": 1 // 0}

    def run(self, ctx: Context) -> dict[str, float]:
        return {}


class Hoard(Stage):
    """Leaves 200 MB in pieces that only the garbage collector finds, and something alive on top of them."""

    name = "hoard"
    makes = "report"
    kept: ClassVar[list[object]] = []

    def run(self, ctx: Context) -> dict[str, float]:
        pieces = [bytearray(50_000) for _ in range(4000)]
        pieces.append(pieces)
        self.kept.append(bytearray(100_000))
        return {}


class Weigh(Stage):
    """Tells what memory the process holds, in bytes, and how many objects it has stopped to look through."""

    name = "weigh"
    makes = "report"

    def run(self, ctx: Context) -> dict[str, float]:
        resident = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return {"bytes": resident, "frozen": gc.get_freeze_count()}


class Draw(Stage):
    """Draws from the global generators of torch and Python."""

    name = "draw"
    makes = "policy"

    def run(self, ctx: Context) -> dict[str, float]:
        import torch

        return {"torch": torch.rand(1), "python": random.random()}
'''


class Talk:
    """A worker and its pipes."""

    def __init__(self, folder: Path):
        self.folder, self.events = folder, []
        (folder / "stages.py").write_text(STAGES)
        ours, theirs = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "align.worker", str(theirs)], stdin=subprocess.PIPE, pass_fds=(theirs,), text=True
        )
        os.close(theirs)
        self.lines = os.fdopen(ours)

    def send(self, type: str, do: str = "run", key: str = "k", **values: Any) -> None:
        job = Job.model_validate({
            "do": do, "recipe": "toy", "stage": f"my-{type}", "type": type, "fields": {}, "key": key, "seed": 0,
            "inputs": {}, "plugins": [self.folder / "stages.py"], "base": self.folder, "store": self.folder / "store",
            "machine": Machine(), **values,
        })  # fmt: skip
        print(job.model_dump_json(), file=self.process.stdin, flush=True)

    def hear(self, event: str) -> dict[str, Any]:
        """The next event of this name; `events` has those before it too."""
        for line in self.lines:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]
        pytest.fail(f"the worker ended without {event}")


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    made = Talk(tmp_path)
    yield made
    with contextlib.suppress(BrokenPipeError):
        made.process.communicate()
    made.lines.close()


def test_whatever_is_printed_is_in_the_log_and_stdin_is_empty(talk: Talk) -> None:
    talk.send("print")
    made = talk.hear("stage_finished")
    log = (Path(made["path"]) / "log.txt").read_text().splitlines()
    assert sorted(log) == ["from a child", "from print", "from stderr", "from the descriptor"]
    assert (Path(made["path"]) / "read").read_text() == "''"
    assert made["metrics"] == {"wide": 2.0}


def test_the_worker_ends_well_when_there_is_nothing_more_to_do(talk: Talk) -> None:
    talk.send("print")
    talk.hear("stage_finished")
    time.sleep(0.2)
    assert talk.process.stdin
    talk.process.stdin.close()
    assert talk.process.wait(10) == 0


def test_the_worker_ends_at_once_with_its_runner(talk: Talk) -> None:
    talk.send("hang")
    talk.hear("stage_started")
    assert talk.process.stdin
    talk.process.stdin.close()
    assert talk.process.wait(10) == 1


def test_a_stage_that_exits_fails_and_the_worker_stays(talk: Talk) -> None:
    talk.send("leave")
    failed = talk.hear("stage_failed")
    assert re.fullmatch(rf"SystemExit: enough \({talk.folder}/stages\.py:\d+\)", failed["error"])
    assert "SystemExit: enough" in Path(failed["log"]).read_text()
    talk.send("print", key="other")
    talk.hear("stage_finished")


def test_a_mistake_in_a_check_is_told_with_its_line_and_logged(talk: Talk) -> None:
    talk.send("slip", "check")
    failed = talk.hear("stage_failed")
    line = next(n for n, text in enumerate(STAGES.splitlines(), 1) if "1 // 0" in text)
    assert f"by zero ({talk.folder}/stages.py:{line})" in failed["error"]
    assert "Traceback" in Path(failed["log"]).read_text()


def test_a_signal_between_jobs_is_not_lost(talk: Talk) -> None:
    talk.send("print")
    talk.hear("stage_finished")
    talk.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert talk.process.poll() is None


def test_inputs_there_are_and_inputs_to_come(talk: Talk) -> None:
    fields = {"inner": "$d"}
    data = {"d": Input.model_validate({"key": "dk", "data": {"path": "rows.jsonl"}}).model_dump()}
    talk.send("ask", "check", fields=fields, inputs=data)
    checked = talk.hear("stage_checked")
    assert (checked["figures"], checked["pending"]) == ({"seen": "rows.jsonl", "key": "dk"}, None)
    talk.send("ask", "check", fields=fields, inputs={"d": {"key": "to-come"}})
    assert talk.hear("stage_checked")["pending"] == "d"


def test_a_run_that_begins_with_a_check_tells_nothing_twice(talk: Talk) -> None:
    data = {"d": Input.model_validate({"key": "dk", "data": {"path": "rows.jsonl"}}).model_dump()}
    talk.send("ask", fields={"inner": "$d"}, inputs=data, unchecked=True)
    talk.hear("stage_finished")
    assert [e["text"] for e in talk.events if e["event"] == "note"] == ["looked"]


def test_what_checks_import_is_looked_through_once_and_memory_is_given_back(talk: Talk) -> None:
    talk.send("weigh", key="first")
    before = talk.hear("stage_finished")["metrics"]
    talk.send("weigh", "check")
    talk.send("hoard")
    talk.send("weigh", key="second")
    talk.hear("stage_finished")
    after = talk.hear("stage_finished")["metrics"]
    assert before["frozen"] == 0 and after["frozen"] > 10_000
    assert after["bytes"] - before["bytes"] < 20e6


@pytest.mark.slow
def test_global_generators_do_not_depend_on_earlier_stages(talk: Talk) -> None:
    drawn = []
    for key in ("first", "second"):
        talk.send("draw", key=key)
        drawn.append(talk.hear("stage_finished")["metrics"])
    assert drawn[0] == drawn[1]
    assert drawn[0].keys() == {"torch", "python"}


def test_the_half_line_of_a_killed_process_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for left, stays in ((b'{"a": 1}\n{"b"', '{"a": 1}\n'), (b'{"b"', ""), (b'{"a": 1}\n', '{"a": 1}\n')):
        path.write_bytes(left)
        with open_lines(path) as file:
            print('{"c": 3}', file=file)
        assert path.read_text() == stays + '{"c": 3}\n'


def test_an_attempt_goes_on_from_what_was_saved(tmp_path: Path) -> None:
    """Of the first attempt 6 s were saved, of the second nothing, of the third, which went on from those, 9 s."""
    path, now = tmp_path / "events.jsonl", datetime(2026, 11, 28, tzinfo=UTC)
    path.touch()
    assert kept(path, now) == (now, 0.0)
    attempts = [(100, {"saved": 106, "step": 130}), (200, {"step": 240}), (300, {"saved": 309, "interrupted": 309})]
    events = [found for start, rest in attempts for found in [("stage_started", start), *rest.items()]]
    path.write_text("".join(json.dumps({"event": name, "time": time}) + "\n" for name, time in events))
    assert kept(path, now) == (datetime.fromtimestamp(100, UTC), 15.0)


def test_ranks_wait_for_one_another_as_long_as_it_takes() -> None:
    """What one has to write may take hours longer; the defaults are ten minutes for NCCL and thirty for gloo."""
    asked = """
import torch
from align.machine import Machine
from align.worker.process import join_ranks

join_ranks(Machine(device="cpu"))
print(torch.distributed.group.WORLD._get_backend(torch.device("cpu")).options._timeout.total_seconds())
"""
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run([sys.executable, "-c", asked], env=os.environ | rank, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == [str(PATIENCE.total_seconds())], done.stderr
