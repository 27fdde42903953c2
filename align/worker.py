"""What runs stages: `python -P -m align.worker FD`, one process that imports once and does one job after another.

Jobs come as JSON lines on stdin, events go as JSON lines to file descriptor FD. What a stage prints goes to `log.txt`
of its work folder, its events to `events.jsonl`; both become part of the artifact. Where `RANK` is set the process is
one of several that run the same stage together: rank 0 alone holds the lock, emits events and writes the artifact.

End of stdin means that the runner has finished, or died; in the middle of a job the process then ends at once. The
lock of the key is the worker's own, so until its last instruction no other run touches the same folders.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import platform
import queue
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import BaseModel

from align import registry
from align.config import Data, Endpoint, Model
from align.disk import sha256_of
from align.errors import AlignError, DependencyError, Interrupted
from align.machine import Machine
from align.plugins import forget_plugins, load_plugin
from align.recipe.outside import mapped
from align.stage import Context, Stage, seed_of
from align.store import Artifact, Store

PACKAGES = ("accelerate", "datasets", "numpy", "peft", "tokenizers", "torch", "transformers", "trl")


class Input(BaseModel):
    """What one reference of a stage stands for: a model, a dataset, or else the artifact of that key."""

    key: str
    model: Model | Endpoint | None = None
    data: Data | None = None
    forerunner: Input | None = None
    """Of a policy that is yet to be made: the model that it will descend from, if that is there."""
    decided: str = ""
    """Of a loop's result: what it turned out to be, and why."""


class Job(BaseModel):
    """One stage to check or to run, with everything that leads to its result."""

    do: Literal["check", "run"]
    recipe: str
    stage: str
    """The stage's name in the recipe."""
    type: str
    """The registered name of its class."""
    fields: dict[str, Any]
    key: str
    seed: int
    inputs: dict[str, Input]
    plugins: tuple[Path, ...] = ()
    base: Path
    store: Path
    machine: Machine
    code: str = ""
    """Hash of the module that defines the stage."""
    commit: str | None = None
    """Git commit of the recipe's repository."""
    unchecked: bool = False
    """Check once more before running: what the stage needs was missing when it was checked."""
    smoke: bool = False
    """Put tiny stand-ins in place of all models and datasets."""
    fresh: bool = False
    """Make it from the start, though its artifact or what a killed run left of it is there."""

    def work(self) -> Path:
        return Store(self.store).work(self.key)

    def log(self, rank: int = 0) -> Path:
        """Where the stage's output goes."""
        return self.work() / (f"log-{rank}.txt" if rank else "log.txt")


class Pending(KeyError):
    """A check asked for an input that is yet to be made: it goes no further now and is repeated before `run`."""


class Inputs(dict[str, Artifact | Model | Endpoint | Data]):
    """The inputs there are; asking for one of the others raises Pending."""

    def __missing__(self, name: str) -> Artifact:
        raise Pending(name)


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
            self._do(job)
            _clear_memory()
            if job.do == "check":
                gc.freeze()  # what checks import stays: to look through it costs 0.2 s, after every job
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
                frame = traceback.extract_tb(error.__traceback__)[-1]
                text = f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
            if job.do == "run" or not isinstance(error, AlignError):
                log = str(_logged(job.log(self.rank)))
            self._send(job, "stage_failed", error=text, log=log)

    def _check(self, job: Job) -> None:
        stage, context = self._prepare(job, _nothing)
        try:
            figures, pending = stage.check(context), None
        except Pending as missing:
            figures, pending = {}, missing.args[0]
        self._send(job, "stage_checked", figures=figures, pending=pending)

    def _run(self, job: Job) -> None:
        store = Store(job.store)
        if self.rank:
            with _printing_to(job.log(self.rank)):
                self._compute(job, _nothing)
            self._send(job, "rank_finished")
            return
        with store.lock(job.key, self._waiting(job)):
            if job.fresh:
                store.discard(job.work())
                store.supersede(job.key)
            if found := store.recover(job.key):
                self._send(job, "stage_cached", key=found.key, path=str(found.path), metrics=found.metrics)
                return
            made = self._make(job, store)
        seconds = made.manifest["seconds"]
        self._send(job, "stage_finished", key=made.key, path=str(made.path), metrics=made.metrics, seconds=seconds)

    def _make(self, job: Job, store: Store) -> Artifact:
        work, started = store.workspace(job.key), datetime.now(UTC)
        with _printing_to(job.log()), _open_lines(work / "events.jsonl") as lines:

            def emit(event: str, **values: Any) -> None:
                print(json.dumps(self._send(job, event, **values), default=_plain), file=lines, flush=True)

            emit("stage_started")
            stage, metrics = self._compute(job, emit)
        for name in (job.log().name, "events.jsonl"):
            shutil.copyfile(work / name, work / "out" / name)
        return store.commit(job.key, stage.makes, metrics, _manifest(job, stage, started))

    def _compute(self, job: Job, emit: Callable[..., None]) -> tuple[Stage, dict[str, float]]:
        stage, context = self._prepare(job, emit)
        if "RANK" in os.environ:
            _join_ranks(job.machine)
        if job.unchecked:
            stage.check(replace(context, emit=_nothing))  # `run` tells the same again
        metrics = stage.run(context)
        return stage, {name: float(value) for name, value in metrics.items()}

    def _prepare(self, job: Job, emit: Callable[..., None]) -> tuple[Stage, Context]:
        if job.plugins != self._plugins:
            forget_plugins()
            for file in job.plugins:
                load_plugin(file)
            self._plugins = job.plugins
        store, swap = Store(job.store), _stand_in(job, "language") if job.smoke else _as_it_is
        stage = registry.stage(job.type).model_validate(job.fields, context={"base": job.base})
        stage = _lightened(stage, job) if job.smoke else stage
        given = {name: _found(taken, store) for name, taken in job.inputs.items()}
        ahead = {name: _found(taken.forerunner, store) for name, taken in job.inputs.items() if taken.forerunner}
        context = Context(
            stage=job.stage, type=job.type, key=job.key, seed=job.seed, base=job.base,
            inputs=Inputs({name: mapped(thing, swap) for name, thing in given.items() if thing}),
            keys={name: _known_as(taken.key, given[name]) for name, taken in job.inputs.items()},
            forerunners={name: mapped(thing, swap) for name, thing in ahead.items() if thing},  # type: ignore[misc]
            store=store, machine=job.machine, work=job.work(), out=job.work() / "out",
            emit=emit, stopping=lambda: self.signal != 0,
        )  # fmt: skip
        _seed(seed_of(job.seed, job.type), torch_too=stage.makes in ("policy", "reward"))
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


def _found(taken: Input, store: Store) -> Artifact | Model | Endpoint | Data | None:
    return taken.model or taken.data or store.find(taken.key)


def _known_as(key: str, thing: object) -> str:
    """What caches know an input by: its key, but not where another artifact of that key was there before."""
    before = thing.manifest.get("supersedes") if isinstance(thing, Artifact) else None
    return f"{key}-{before[:8]}" if before else key


def _as_it_is(place: object, leaf: Any) -> Any:
    return leaf


def _stand_in(job: Job, head: Literal["language", "score"]) -> Callable[[object, Any], Any]:
    """Puts tiny models and datasets in place of the real ones, wherever a stage names them."""
    from align.models.smoke import stand_in

    def swap(place: object, leaf: Any) -> Any:
        if isinstance(leaf, Path):
            return leaf
        leaf = Model(path=leaf.name) if isinstance(leaf, Endpoint) else leaf
        return stand_in(leaf, sha256_of(leaf.model_dump(mode="json"))[:32], job.base, Store(job.store), head)

    return swap


def _lightened(stage: Stage, job: Job) -> Stage:
    """The stage with less to do. Models among its own fields, not referred to by name, are rewards."""
    from align.models.smoke import lightened

    return lightened(mapped(stage, _stand_in(job, "score")))


def _nothing(event: str, **values: Any) -> None:
    """Emits nowhere: checks and the ranks above 0 are silent."""


def _seed(seed: int, torch_too: bool) -> None:
    """Seeds the global generators, so that a stage's result doesn't depend on what this worker did before."""
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
    if torch_too or "torch" in sys.modules:
        import torch

        torch.manual_seed(seed)


def _join_ranks(machine: Machine) -> None:
    """Lets accelerate find the other ranks, on a GPU each where there are GPUs.

    Done here because accelerate finds none, and every rank would train alone, where a stage asks for it on a machine
    without GPUs and doesn't say `cpu=True`.
    """
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=machine.device == "cpu" or not torch.cuda.is_available())
    if state.num_processes != int(os.environ["WORLD_SIZE"]):
        raise DependencyError(f"accelerate sees {state.num_processes} of {os.environ['WORLD_SIZE']} processes")


def _clear_memory() -> None:
    """Gives back what a stage held, so that the next one, or another process, has it."""
    import ctypes  # here, for planning imports this module and clears nothing

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # the allocator of GNU keeps what is freed below anything alive
        ctypes.CDLL(None).malloc_trim(0)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Appends all that is printed, by libraries in C too, to a file."""
    kept = [os.dup(1), os.dup(2)]
    with open(log, "a") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def _logged(log: Path) -> Path:
    """The log, with the traceback of the error being handled at its end."""
    with contextlib.suppress(OSError):  # a full disk, say, which the error then tells of
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as file:
            traceback.print_exc(file=file)
    return log


def _open_lines(path: Path) -> TextIO:
    """Opens a file of lines to add more, without the half line that a killed process may have left at its end."""
    if path.exists():
        text = path.read_bytes()
        os.truncate(path, text.rfind(b"\n") + 1)
    return open(path, "a")


def _manifest(job: Job, stage: Stage, started: datetime) -> dict[str, Any]:
    finished, device = datetime.now(UTC), _device(job.machine)
    return {
        "recipe": job.recipe,
        "stage": job.stage,
        "type": stage.name,
        "version": stage.version,
        "fields": job.fields,
        "inputs": {path: _taken(reference.name, job) for path, reference in stage.references()},
        "seed": job.seed,
        "code": job.code,
        "commit": job.commit,
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "seconds": round((finished - started).total_seconds(), 2),
        "device": device,
        "determinism": "bit-exact" if device == "cpu" else "statistical",
        "machine": job.machine.model_dump(mode="json", exclude={"store"}),
        "versions": _versions(),
    }


def _taken(name: str, job: Job) -> dict[str, str]:
    taken = job.inputs[name]
    return {"name": name, "key": taken.key} | ({"decided": taken.decided} if taken.decided else {})


def _device(machine: Machine) -> str:
    torch = sys.modules.get("torch")
    if torch is None or machine.device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return torch.cuda.get_device_name()


def _versions() -> dict[str, str]:
    """Versions of Python, align, and the libraries that were imported."""
    found = {"python": platform.python_version()}
    for name in ("align", *(name for name in PACKAGES if name in sys.modules)):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as numbers; anything else that JSON doesn't know as text."""
    return value.item() if hasattr(value, "item") else str(value)


def main() -> None:
    jobs, events = os.fdopen(os.dup(0)), os.fdopen(int(sys.argv[1]), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # stages read nothing from here
    os.set_inheritable(events.fileno(), False)
    Worker(jobs, events).serve()


if __name__ == "__main__":
    main()
