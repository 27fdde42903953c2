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

from align.disk import delete, sync, write_json
from align.errors import TrainingError
from align.train.learner import Learner


def save(folder: Path, learner: Learner, state: Mapping[str, Any], keep: int) -> Path:
    """Writes a checkpoint of the learner and of `state` (JSON), then removes all but the newest `keep`.

    Every rank must call it; rank 0 writes.
    """
    final = folder / f"step-{learner.step:08d}"
    if learner.accelerator.is_main_process and not _is_complete(final):
        draft = folder / f".{final.name}.{os.getpid()}"
        delete(draft)
        delete(final)
        draft.mkdir(parents=True)
        torch.save(_state(learner), draft / "state.pt")
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
    """Puts the newest complete checkpoint into the learner and returns its state; None if there is none.

    Raises TrainingError where its tensors are not those that train.
    """
    found = complete(folder)
    if not found:
        return None
    marker = json.loads((found[-1] / "complete.json").read_text())
    saved = torch.load(found[-1] / "state.pt", map_location="cpu", weights_only=True)
    shapes = [{name: p.shape for name, p in part.items()} for part in (saved["weights"], learner.trainable)]
    if odd := [name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)]:
        raise TrainingError(f"{found[-1]}: {len(odd)} tensors are missing, left over or of another shape: {min(odd)}")
    with torch.no_grad():
        for name, p in learner.trainable.items():
            p.copy_(saved["weights"][name])
    optimizer, names = learner.optimizer.optimizer, _names(learner)
    state = {i: saved["optimizer"][name] for i, name in enumerate(names) if name in saved["optimizer"]}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    learner.resume(marker["step"])
    return marker["state"]


def keep_weights(file: Path, learner: Learner) -> None:
    """Writes the weights that train to a file, all or nothing, for `restore_weights`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    torch.save({name: p.detach().cpu() for name, p in learner.trainable.items()}, draft)
    sync(draft)
    draft.replace(file)


@torch.no_grad()
def restore_weights(file: Path, learner: Learner) -> None:
    """Goes back to the weights of a file."""
    saved = torch.load(file, map_location="cpu", weights_only=True)
    for name, p in learner.trainable.items():
        p.copy_(saved[name])


def _state(learner: Learner) -> dict[str, Any]:
    """Weights and optimizer state by parameter name. A tensor without gradients so far has no optimizer state."""
    names = _names(learner)
    return {
        "weights": {name: p.detach() for name, p in learner.trainable.items()},
        "optimizer": {names[i]: state for i, state in learner.optimizer.optimizer.state_dict()["state"].items()},
    }


def _names(learner: Learner) -> list[str]:
    """The names of the trainable parameters in the optimizer's order."""
    names = {p: name for name, p in learner.trainable.items()}
    return [names[p] for group in learner.optimizer.optimizer.param_groups for p in group["params"]]


def _is_complete(path: Path) -> bool:
    try:
        sizes = json.loads((path / "complete.json").read_text())["sizes"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False
