"""Seconds, memory, the rate of matrix products, and where the seconds of a step go."""

from __future__ import annotations

import platform
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

RATE_SECONDS = 0.3


@dataclass
class Clock:
    """Seconds of this process and of the wall, between start and stop; a GPU's work is waited for."""

    device: torch.device
    cpu: float = 0.0
    wall: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        self._wait()
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self._wait()
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall

    @property
    def seconds(self) -> float:
        """What counts: on one thread of a CPU the process's own, for neighbours take theirs from the wall's."""
        return self.cpu if self.device.type == "cpu" and torch.get_num_threads() == 1 else self.wall

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def name_of(device: torch.device) -> str:
    """What a processor or a GPU is called, with the threads that are used of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"{(names or [platform.processor()])[0]}, {threads} thread{'s' * (threads != 1)}"


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process had at once: of the GPU where there is one, else its own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of square matrix products, on the threads that torch has."""
    width = 4096 if device.type == "cuda" else 768
    matrix = torch.ones(width, width, device=device, dtype=dtype)

    def multiply() -> float:
        return float((matrix @ matrix)[0, 0])  # reading one number waits for the device

    multiply()
    clock, count = Clock(device), 0
    while clock.wall < RATE_SECONDS:
        with clock.running():
            multiply()
        count += 1
    return 2 * width**3 * count / clock.seconds


PARTS = {
    "attention": ("attention", "softmax"),
    "matrices": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::matmul", "aten::linear"),
    "copies": ("aten::copy_", "aten::cat", "aten::fill_", "aten::zero_", "aten::index", "embedding"),
    "optimizer": ("optimizer", "adam", "clip_grad", "aten::_foreach_"),
}
"""Parts of a step by what the names of torch's operators contain; what is none of these is `other operators`."""


def breakdown(work: Callable[[], object], vocabulary: int) -> dict[str, float]:
    """The share of each part in the seconds that the work takes, by torch's profiler; they add up to 1.

    `projection` is products with a side as long as the vocabulary, `python` all that is spent outside of operators.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
        start = time.perf_counter()
        work()
        total = (time.perf_counter() - start) * 1e6  # before the profile is drawn up, which takes seconds
    on_gpu = torch.cuda.is_available()
    spent: Counter[str] = Counter()
    for event in profile.key_averages(group_by_input_shape=True):
        spent[_part(event.key.lower(), event.input_shapes, vocabulary)] += (
            event.self_device_time_total if on_gpu else event.self_cpu_time_total
        )
    known = sum(spent.values())
    total = max(total, known)
    return {part: time / total for part, time in spent.most_common()} | {"python": 1 - known / total}


def _part(name: str, shapes: list[list[int]], vocabulary: int) -> str:
    part = next((part for part, names in PARTS.items() if any(n in name for n in names)), "other operators")
    if part == "matrices" and any(vocabulary in shape for shape in shapes):
        return "projection"
    return part
