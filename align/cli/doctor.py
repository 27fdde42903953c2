"""The verb doctor: what this machine has, what is missing and for what, how fast it multiplies matrices."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from align.cli import text
from align.cli.options import StoreFolder, store_at

if TYPE_CHECKING:
    import torch

OPTIONAL = {
    "bitsandbytes": "models with quantize: 4bit (QLoRA), on a GPU",
    "vllm": "generator: vllm, replies written on a GPU",
    "lm_eval": "benchmarks in comparisons",
    "tensorboard": "--track tensorboard",
    "wandb": "--track wandb",
    "mlflow": "--track mlflow",
    "trackio": "--track trackio",
}
"""Packages that one feature needs."""
EXTRAS = {"vllm": "'align[vllm]'", "lm_eval": "'align[eval]'"}
"""Those whose versions align knows."""
MARKS = {"fine": ("✓", "green"), "absent": ("-", "dim"), "wrong": ("✗", "red")}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    value: str
    state: str = "fine"
    """`fine`, `absent` (an optional thing) or `wrong`."""


def doctor(store: StoreFolder = None) -> None:
    """Check the installation: versions, devices, speed, disk, and what is missing for which feature.

    Example: align doctor
    """
    found = [*_versions(), *_optional(), *_devices(), _disk(store_at(store).root)]
    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in found:
        mark, style = MARKS[finding.state]
        table.add_row(Text(mark, style=style), finding.what, finding.value)
    Console().print(table)
    if any(finding.state == "wrong" for finding in found):
        raise typer.Exit(1)


def _versions() -> Iterator[Finding]:
    yield Finding("python", platform.python_version())
    try:
        needed = [Requirement(line) for line in requires("align") or ()]
    except PackageNotFoundError:
        yield Finding("align", "not installed; run pip install -e . in its folder", "wrong")
        return
    for requirement in needed:
        if requirement.marker is None:
            yield _required(requirement)


def _required(requirement: Requirement) -> Finding:
    try:
        have = version(requirement.name)
    except PackageNotFoundError:
        return Finding(requirement.name, f"missing; needs {requirement.specifier}", "wrong")
    if requirement.specifier.contains(have, prereleases=True):
        return Finding(requirement.name, have)
    return Finding(requirement.name, f"{have}; needs {requirement.specifier}", "wrong")


def _optional() -> Iterator[Finding]:
    for name, feature in OPTIONAL.items():
        try:
            yield Finding(name, f"{version(name)}  for {feature}")
        except PackageNotFoundError:
            yield Finding(name, f"not there; needed for {feature}: pip install {EXTRAS.get(name, name)}", "absent")


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", f"cannot be imported: {error}", "wrong")
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("cpu", f"{os.cpu_count()} cores, {text.size(memory)}, {_rate(torch.device('cpu'), torch.float32)}")
    if not torch.cuda.is_available():
        yield Finding("gpu", "none that torch can use", "absent")
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        about = torch.cuda.get_device_properties(device)
        rates = ", ".join(_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16))
        yield Finding(f"gpu {index}", f"{about.name}, {text.size(about.total_memory)}, {rates}")


def _rate(device: torch.device, dtype: torch.dtype) -> str:
    """The rate of square matrix products, in floating point operations a second."""
    from align.bench.clock import matrix_rate

    return f"{matrix_rate(device, dtype) / 1e9:,.1f} GFLOP/s in {str(dtype).removeprefix('torch.')}"


def _disk(folder: Path) -> Finding:
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    return Finding("disk", f"{text.size(free)} free for {folder}", "fine" if free > 1e9 else "wrong")
