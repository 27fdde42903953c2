"""What one process does around a stage: its seeds, its ranks, its output and its memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import sys
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TextIO

from align.errors import DependencyError
from align.machine import Machine

PATIENCE = timedelta(days=7)
"""How long a rank waits for another. By default NCCL ends everything after ten minutes, while one has much longer
replies to write than another, or rank 0 a checkpoint. A rank that died needs no limit: the runner ends the others."""


def seed_all(seed: int, torch_too: bool) -> None:
    """Seeds the global generators, so that a stage's result doesn't depend on what this worker did before."""
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
    if torch_too or "torch" in sys.modules:
        import torch

        torch.manual_seed(seed)


def join_ranks(machine: Machine) -> None:
    """Lets accelerate find the other ranks, on a GPU each where there are GPUs.

    Done here because accelerate finds none, and every rank would train alone, where a stage asks for it on a machine
    without GPUs and doesn't say `cpu=True`.
    """
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=machine.device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
    if state.num_processes != int(os.environ["WORLD_SIZE"]):
        raise DependencyError(f"accelerate sees {state.num_processes} of {os.environ['WORLD_SIZE']} processes")


def clear_memory() -> None:
    """Gives back what a stage held, so that the next one, or another process, has it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # the allocator of GNU keeps what is freed below anything alive
        ctypes.CDLL(None).malloc_trim(0)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def printing_to(log: Path) -> Iterator[None]:
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


def logged(log: Path) -> Path:
    """The log, with the traceback of the error being handled at its end."""
    with contextlib.suppress(OSError):  # a full disk, say, which the error then tells of
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as file:
            traceback.print_exc(file=file)
    return log


def open_lines(path: Path) -> TextIO:
    """Opens a file of lines to add more, without the half line that a killed process may have left at its end."""
    if path.exists():
        text = path.read_bytes()
        os.truncate(path, text.rfind(b"\n") + 1)
    return open(path, "a")
