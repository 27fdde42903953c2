"""PPO, killed in the middle of a rollout, of scoring, of an update or of a save, ends with the same weights."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from align import disk
from align.generate import hf
from align.rewards import model as trained_reward
from align.stages.ppo import PPO
from align.train import checkpoint, learner, objectives, rollout

PHASES = {
    "rollout": (hf,),
    "scoring": (rollout, trained_reward),
    "update": (learner, objectives),
    "save": (checkpoint, disk),
}
FILES = {module.__file__: phase for phase, modules in PHASES.items() for module in modules}
STAGE = {
    "policy": "$base", "prompts": "$prompts", "reward": "$judge", "doubtful_reward": "allow",
    "held_out": {"prompts": "$prompts"}, "sampling": {"max_new_tokens": 8}, "steps": 4, "minibatches": 2, "epochs": 2,
    "kl": {"target": 0.01}, "checkpoint": {"every": 1}, "optim": {"lr": 3e-3, "batch_size": 4},
}  # fmt: skip


def traced(act: Callable[[], object], each: Callable[[str], None]) -> None:
    """Acts, and calls `each` with the phase before every line of the files that belong to one."""

    def trace(frame, event, argument):
        phase = FILES.get(frame.f_code.co_filename)
        if phase and event == "line":
            each(phase)
        return trace if phase else None

    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(None)


def killed_at(phase: str, line: int, act: Callable[[], object]) -> bool:
    """Forks, acts in the child and kills it before that line of the phase, counted from 0. False if it never came."""
    child = os.fork()
    if child == 0:
        left = line

        def each(found: str) -> None:
            nonlocal left
            left -= found == phase
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            traced(act, each)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.slow
def test_a_kill_at_any_moment_changes_no_weight(artifacts, prompts, context, tmp_path):
    """Traps 15 and 16: three random lines of each phase, each of a run of its own."""
    stage, inputs = PPO(**STAGE), artifacts | {"prompts": prompts}
    lines: Counter[str] = Counter()
    traced(lambda: stage.run(context(inputs)), lambda phase: lines.update([phase]))
    straight = weights(tmp_path / "out")
    assert lines.keys() == PHASES.keys()
    chance, resumed = random.Random(0), 0
    for phase in [*PHASES] * 3:
        shutil.rmtree(tmp_path / "out")
        shutil.rmtree(tmp_path / "work")
        moment = chance.randrange(lines[phase])
        assert killed_at(phase, moment, lambda: stage.run(context(inputs))), phase
        ctx = context(inputs)
        stage.run(ctx)
        resumed += any("going on after step" in event.get("text", "") for event in context.events)
        found = weights(ctx.out)
        assert all(torch.equal(straight[name], found[name]) for name in straight), (phase, moment)
    assert resumed >= 6  # most kills come after the first save
