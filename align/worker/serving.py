"""The loop of a worker: jobs in, events out, artifacts in the store."""

from __future__ import annotations

import gc
import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from align import registry
from align.config import Data
from align.data.load import load
from align.errors import AlignError, Interrupted, StoreError
from align.plugins import forget_plugins, load_plugin
from align.recipe.outside import mapped
from align.stage import Context, Stage, seed_of
from align.store import Artifact, Store
from align.worker.inputs import Inputs, Pending, as_it_is, found, known_as, lightened_for, standing_in
from align.worker.job import Job
from align.worker.manifest import kept, manifest
from align.worker.process import clear_memory, join_ranks, logged, open_lines, printing_to, seed_all


class Worker:
    """Does jobs until stdin ends."""

    def __init__(self, jobs: TextIO, events: TextIO):
        self.rank = int(os.environ.get("RANK", "0"))
        self.signal = 0
        self._input, self._events = jobs, events
        self._jobs: queue.Queue[str | None] = queue.Queue()
        self._plugins: tuple[Path, ...] = ()

    def serve(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        threading.Thread(target=self._listen, daemon=True).start()
        while (line := self._jobs.get()) is not None:
            job = Job.model_validate_json(line)
            if job.do == "check":
                gc.disable()  # checks import libraries: to look for garbage among their parts takes a quarter of it
            self._do(job)
            gc.enable()
            clear_memory()
            if job.do == "check":
                gc.freeze()  # what was imported stays: to look through it costs half a second, after every job
            self._jobs.task_done()

    def _listen(self) -> None:
        for line in self._input:
            self._jobs.put(line)
        if self._jobs.unfinished_tasks:
            os._exit(1)
        self._jobs.put(None)

    def _stop(self, number: int, frame: object) -> None:
        self.signal = number

    def _send(self, job: Job, event: str, **values: Any) -> dict[str, Any]:
        message = {"event": event, "stage": job.stage, "time": time.time(), **values}
        print(json.dumps(message, default=_plain), file=self._events, flush=True)
        return message

    def _do(self, job: Job) -> None:
        try:
            self._check(job) if job.do == "check" else self._run(job)
        except Interrupted:
            self._send(job, "interrupted")
        except (Exception, SystemExit) as error:
            text, log = str(error), None
            if not isinstance(error, AlignError):
                text = f"{type(error).__name__}: {error} ({_line_at_fault(error, job.plugins)})"
            if job.do == "run" or not isinstance(error, AlignError):
                log = str(logged(job.log(self.rank)))
            self._send(job, "stage_failed", error=text, log=log)

    def _check(self, job: Job) -> None:
        stage, context = self._prepare(job, _nothing)
        try:
            figures, pending = stage.check(context), None
        except Pending as missing:
            figures, pending = {}, missing.args[0]
        if pending or type(stage).check is Stage.check:
            _read_outside(stage, context)
        self._send(job, "stage_checked", figures=figures, pending=pending)

    def _run(self, job: Job) -> None:
        store = Store(job.store)
        if self.rank:
            with printing_to(job.log(self.rank)):
                self._compute(job, _nothing)
            self._send(job, "rank_finished")
            return
        with store.lock(job.key, self._waiting(job)):
            if job.fresh:
                store.discard(job.work())
                store.supersede(job.key)
            if made := store.recover(job.key):
                self._send(job, "stage_cached", key=made.key, path=str(made.path), metrics=made.metrics)
                return
            made = self._make(job, store)
        seconds = made.manifest["seconds"]
        self._send(job, "stage_finished", key=made.key, path=str(made.path), metrics=made.metrics, seconds=seconds)

    def _make(self, job: Job, store: Store) -> Artifact:
        work, started = store.workspace(job.key), datetime.now(UTC)
        with printing_to(job.log()), open_lines(work / "events.jsonl") as lines:
            began, before = kept(work / "events.jsonl", started)

            def emit(event: str, **values: Any) -> None:
                print(json.dumps(self._send(job, event, **values), default=_plain), file=lines, flush=True)

            emit("stage_started")
            stage, metrics = self._compute(job, emit)
            _complain_of_nothing(stage, work / "out")
        for name in (job.log().name, "events.jsonl"):
            shutil.copyfile(work / name, work / "out" / name)
        seconds = before + (datetime.now(UTC) - started).total_seconds()
        return store.commit(job.key, stage.makes, metrics, manifest(job, stage, began, seconds))

    def _compute(self, job: Job, emit: Callable[..., None]) -> tuple[Stage, dict[str, float]]:
        stage, context = self._prepare(job, emit)
        if "RANK" in os.environ:
            join_ranks(job.machine)
        if job.unchecked:
            stage.check(replace(context, emit=_nothing))  # `run` tells the same again
        return stage, _numbers(stage, stage.run(context))

    def _prepare(self, job: Job, emit: Callable[..., None]) -> tuple[Stage, Context]:
        if job.plugins != self._plugins:
            forget_plugins()
            for file in job.plugins:
                load_plugin(file)
            self._plugins = job.plugins
        store, swap = Store(job.store), standing_in(job, "language") if job.smoke else as_it_is
        stage = registry.stage(job.type).model_validate(job.fields, context={"base": job.base})
        stage = lightened_for(stage, job) if job.smoke else stage
        given = {name: found(taken, store) for name, taken in job.inputs.items()}
        ahead = {name: found(taken.forerunner, store) for name, taken in job.inputs.items() if taken.forerunner}
        context = Context(
            stage=job.stage, type=job.type, key=job.key, seed=job.seed, base=job.base,
            inputs=Inputs({name: mapped(thing, swap) for name, thing in given.items() if thing}),
            keys={name: known_as(taken.key, given[name]) for name, taken in job.inputs.items()},
            forerunners={name: mapped(thing, swap) for name, thing in ahead.items() if thing},  # type: ignore[misc]
            store=store, machine=job.machine, work=job.work(), out=job.work() / "out",
            emit=emit, stopping=lambda: self.signal != 0,
        )  # fmt: skip
        seed_all(seed_of(job.seed, job.type), torch_too=stage.makes in ("policy", "reward"))
        return stage, context

    def _waiting(self, job: Job) -> Callable[[str], None]:
        told = False

        def waiting(owner: str) -> None:
            nonlocal told
            if self.signal:
                raise Interrupted(self.signal)
            if not told:
                told = True
                self._send(job, "note", level="info", text=f"waiting for process {owner}, which is making the same")

        return waiting


def _nothing(event: str, **values: Any) -> None:
    """Emits nowhere: checks and the ranks above 0 are silent."""


def _numbers(stage: Stage, metrics: Any) -> dict[str, float]:
    """What `run` returned, if that is metrics. Raises StoreError for what a stage of one's own may return instead."""
    try:
        return {str(name): float(value) for name, value in metrics.items()}
    except (AttributeError, TypeError, ValueError):
        right = "its metrics, a dict of names and numbers; {} where there are none"
        raise StoreError(f"{type(stage).__name__}.run returned {metrics!r:.80}, not {right}") from None


def _read_outside(stage: Stage, context: Context) -> None:
    """Reads the datasets of a stage that did not, so that a bad row is told before what the stage waits for is made."""
    for _, reference in stage.references():
        if isinstance(given := context.inputs.get(reference.name), Data):
            load(given, context.seed, context.base)


def _complain_of_nothing(stage: Stage, out: Path) -> None:
    """Raises StoreError where a stage that makes records wrote none, which the next stage would only miss."""
    if stage.makes == "records" and not (out / "records.jsonl").is_file():
        raise StoreError(f"{type(stage).__name__} makes records, but its run wrote no ctx.out / 'records.jsonl'")


def _line_at_fault(error: BaseException, plugins: Iterable[Path]) -> str:
    """The line that raised an error; one of a plugin, where the error came through it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename) in plugins]
    return f"{(own or frames)[-1].filename}:{(own or frames)[-1].lineno}"


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as numbers; anything else that JSON doesn't know as text."""
    return value.item() if hasattr(value, "item") else str(value)


def main() -> None:
    """Serves the jobs on stdin; the events go to the file descriptor that the first argument names."""
    jobs, events = os.fdopen(os.dup(0)), os.fdopen(int(sys.argv[1]), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # stages read nothing from here
    os.set_inheritable(events.fileno(), False)
    Worker(jobs, events).serve()
