"""The record of how an artifact was made."""

from __future__ import annotations

import contextlib
import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from align.machine import Machine
from align.stage import Stage
from align.worker.job import Job

PACKAGES = ("accelerate", "datasets", "numpy", "peft", "tokenizers", "torch", "transformers", "trl")


def kept(events: Path, started: datetime) -> tuple[datetime, float]:
    """When the work began that an attempt of a stage goes on from, and how many seconds of it were saved.

    events: those of all earlier attempts. Each took over what had been saved; what a kill threw away is in no sum. An
    attempt that finds nothing begins at `started`.
    """
    began, saved, attempt, before = None, 0.0, 0.0, 0.0
    for event in map(json.loads, events.read_text().splitlines()):
        if event["event"] == "stage_started":
            attempt, before = event["time"], saved
        elif event["event"] == "saved":
            began, saved = began or attempt, before + event["time"] - attempt
    return (datetime.fromtimestamp(began, UTC) if began else started), saved


def manifest(job: Job, stage: Stage, began: datetime, seconds: float) -> dict[str, Any]:
    """What `manifest.json` says of how an artifact was made: from what, when, where and by which versions.

    seconds: of the work that led to it, which are fewer than passed since it began where a run was stopped meanwhile.
    """
    device = _device(job.machine)
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
        "started": began.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
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
