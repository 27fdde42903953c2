"""Worker processes, seen from the runner: one warm worker, or the ranks of a distributed stage."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

from align.machine import Machine
from align.worker.job import Job

PATIENCE_SECONDS = 10
"""How long a process may take to end after its last job."""
TICK_SECONDS = 0.5
RESULTS = frozenset({"stage_checked", "stage_cached", "stage_finished", "stage_failed", "interrupted"})


class Workers:
    """Processes that do jobs; `ranks` above 1 do each job together, found by accelerate through torchrun's variables.

    `tick` is called about twice a second while they work.
    """

    def __init__(self, machine: Machine, ranks: int = 1, tick: Callable[[], None] = lambda: None):
        self._tick = tick
        self._selector = selectors.DefaultSelector()
        self._rest: dict[int, bytes] = {}
        self._output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by close()
        self._processes: list[subprocess.Popen[str]] = []
        port = _free_port() if ranks > 1 else 0
        for rank in range(ranks):
            self._start(rank, _environment(machine, rank, ranks, port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        return all(process.poll() is None for process in self._processes)

    def do(self, job: Job) -> Iterator[dict[str, Any]]:
        """The events of a job as they come; the last is its result, one of RESULTS.

        Rank 0's result is the job's. The other ranks start once it holds the lock; whichever fails first fails it.
        """
        self._send(0, job)
        for rank, event in self._events():
            if event is None:
                facts = {"error": self._death(rank), "log": str(job.log(rank)) if job.do == "run" else None}
                yield {"event": "stage_failed", "stage": job.stage, "time": time.time(), **facts}
                return
            if event["event"] == "stage_started":
                for other in range(1, len(self._processes)):
                    self._send(other, job)
            if rank == 0 or event["event"] == "stage_failed":
                yield event
                if event["event"] in RESULTS:
                    return

    def signal(self, number: int) -> None:
        for process in self._processes:
            process.send_signal(number)

    def close(self) -> None:
        """Lets the processes end, which kills those that are still at work."""
        for process in self._processes:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # type: ignore[union-attr]
        for process in self._processes:
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for key in list(self._selector.get_map().values()):
            self._forget(key.fd)
        self._selector.close()
        self._output.close()

    def _start(self, rank: int, environment: dict[str, str]) -> None:
        events, theirs = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-u", "-P", "-m", "align.worker", str(theirs)],
            stdin=subprocess.PIPE, stdout=self._output, stderr=self._output, pass_fds=(theirs,), env=environment,
            text=True, start_new_session=True,  # or Ctrl-C would end what the worker itself has started
        )  # fmt: skip
        os.close(theirs)
        self._processes.append(process)
        self._rest[events] = b""
        self._selector.register(events, selectors.EVENT_READ, rank)

    def _send(self, rank: int, job: Job) -> None:
        stdin = self._processes[rank].stdin
        with contextlib.suppress(BrokenPipeError):  # its death is noticed where its events end
            print(job.model_dump_json(), file=stdin, flush=True)

    def _events(self) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """(rank, event) as they come; None in place of an event says that the rank is dead."""
        while True:
            self._tick()
            ready = self._selector.select(TICK_SECONDS)
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                *lines, self._rest[key.fd] = (self._rest[key.fd] + data).split(b"\n")
                for line in lines:
                    yield key.data, json.loads(line)
                if not data:
                    self._forget(key.fd)
                    yield key.data, None
            if not ready and not self.alive:  # its events don't end while a child of its own holds the pipe
                yield next(rank for rank, process in enumerate(self._processes) if process.poll() is not None), None

    def _forget(self, events: int) -> None:
        self._selector.unregister(events)
        os.close(events)

    def _death(self, rank: int) -> str:
        code = self._processes[rank].wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        hint = "; did it run out of memory?" if code == -signal.SIGKILL else ""
        self._output.seek(0)
        said = self._output.read()[-2000:].strip()
        return f"the worker process {how}{hint}" + (f"\n{said}" if said else "")


def _environment(machine: Machine, rank: int, ranks: int, port: int) -> dict[str, str]:
    # Threads that spin while they wait for one another halt training where another process has one of the cores:
    # measured on two cores beside four busy processes, 65 tokens/s with spinning and 5,000 without.
    made = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
    threads = machine.threads or (max(1, (os.cpu_count() or 1) // ranks) if ranks > 1 else None)
    if threads and (machine.threads or "OMP_NUM_THREADS" not in made):
        made["OMP_NUM_THREADS"] = str(threads)
    if ranks > 1:
        made |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        made |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return made


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
