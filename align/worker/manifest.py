"""The record of how an artifact was made."""

from __future__ import annotations

import contextlib
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from align.machine import Machine
from align.stage import Stage
from align.worker.job import Job

PACKAGES = ("accelerate", "datasets", "numpy", "peft", "tokenizers", "torch", "transformers", "trl")


def manifest(job: Job, stage: Stage, started: datetime) -> dict[str, Any]:
    """What `manifest.json` says of how an artifact was made: from what, when, where and by which versions."""
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
