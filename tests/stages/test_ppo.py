"""PPO as a recipe runs it: what it refuses, that it stops and goes on without a trace, and that it learns."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from align.errors import CheckError, ContractError, Interrupted, TrainingError
from align.registry import load_plugin, forget_plugins
from align.stages.ppo import PPO
from align.store import Artifact

RULE = """
from align.records import Prompt
from align.rewards.base import reward

@reward("happy")
def happy(prompt: Prompt, reply: str) -> float:
    \"\"\"The share of words that are happy.\"\"\"
    words = reply.split()
    return sum(word in ("happy", "good") for word in words) / max(len(words), 1)
"""
OPTIM = {"lr": 1e-2, "batch_size": 4, "schedule": "constant", "warmup": 0.0}
SAMPLING = {"max_new_tokens": 8}
STAGE = {"policy": "$base", "prompts": "$prompts", "sampling": SAMPLING, "optim": OPTIM, "minibatches": 2}


@pytest.fixture(autouse=True)
def happy(tmp_path):
    """A rule: the share of happy words."""
    (tmp_path / "happy.py").write_text(RULE)
    load_plugin(tmp_path / "happy.py")
    yield
    forget_plugins()


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo", "reinforce++"])
def test_it_learns(advantage, artifacts, context, prompts):
    n = 4 if advantage in ("rloo", "grpo") else 1
    stage = PPO(
        **STAGE | {"sampling": SAMPLING | {"n": n}}, reward="happy", advantage=advantage, steps=12, held_out={"prompts": "$prompts"},
    )
    ctx = context({"base": artifacts["base"], "prompts": prompts})
    stage.check(ctx)
    metrics = stage.run(ctx)
    for e in context.events:
        if e["event"] in("step","note"): print({k: (round(v,3) if isinstance(v,float) else v) for k,v in e.items()})
    print(metrics)
    assert metrics["held_out_gain_low"] > 0
