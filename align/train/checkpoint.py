"""Training checkpoints: what it takes to go on after a kill at any moment.

A checkpoint is a folder `step-00000120` that is written under another name, synced, and renamed; a folder without its
last file, `complete.json`, or with a file of another size than that names, never counts. The newest complete one
counts, so a kill while saving falls back to the one before.

Weights are the trainable ones only. Random numbers need no saving: each step seeds its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from align.disk import delete, sync, write_json
from align.train.learner import Learner


def save(folder: Path, learner: Learner, state: Mapping[str, Any], keep: int) -> Path:
    """Writes a checkpoint of the learner and of `state` (JSON), then removes all but the newest `keep`.

    Every rank must call it; rank 0 writes.
    """
    weights, optimizer = _gather(learner)
    final = folder / f"step-{learner.step:08d}"
    if learner.accelerator.is_main_process and not _is_complete(final):
        draft = folder / f".{final.name}.{os.getpid()}"
        delete(draft)
        delete(final)
        draft.mkdir(parents=True)
        torch.save({"weights": weights, "optimizer": optimizer}, draft / "state.pt")
        sync(draft / "state.pt")
        sizes = {"state.pt": (draft / "state.pt").stat().st_size}
        write_json(draft / "complete.json", {"step": learner.step, "state": dict(state), "sizes": sizes})
        os.rename(draft, final)
        sync(folder)
        for old in complete(folder)[:-keep]:
            delete(old)
        for leftover in folder.glob(".step-*"):
            delete(leftover)
    learner.accelerator.wait_for_everyone()
    return final


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first."""
    return [path for path in sorted(folder.glob("step-*")) if _is_complete(path)]


def load(folder: Path, learner: Learner) -> dict[str, Any] | None:
    """Puts the newest complete checkpoint into the learner and returns its state; None if there is none."""
    found = complete(folder)
    if not found:
        return None
    marker = json.loads((found[-1] / "complete.json").read_text())
    saved = torch.load(found[-1] / "state.pt", map_location="cpu", weights_only=True)
    model = learner.accelerator.unwrap_model(learner.module)
    set_model_state_dict(model, saved["weights"], options=StateDictOptions(full_state_dict=True, strict=False))
    set_optimizer_state_dict(model, learner.optimizer.optimizer, saved["optimizer"], options=_OPTIONS)
    learner.resume(marker["step"])
    return marker["state"]


_OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)


def _gather(learner: Learner) -> tuple[dict[str, Any], dict[str, Any]]:
    model = learner.accelerator.unwrap_model(learner.module)
    weights = get_model_state_dict(model, options=_OPTIONS)
    return weights, get_optimizer_state_dict(model, learner.optimizer.optimizer, options=_OPTIONS)


def _is_complete(path: Path) -> bool:
    try:
        sizes = json.loads((path / "complete.json").read_text())["sizes"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False
