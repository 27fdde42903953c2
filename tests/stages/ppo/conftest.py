"""Rules that reward, the fields of a small run of ppo, and what it told and left behind."""

import pytest
import torch
from safetensors.torch import load_file

from align.plugins import forget_plugins, load_plugin

RULE = '''
from align.rewards.base import reward

@reward("happy")
def happy(prompt, reply: str) -> float:
    """The share of words that are happy or good."""
    words = reply.split()
    return sum(word in ("happy", "good") for word in words) / max(len(words), 1)

@reward("sober")
def sober(prompt, reply: str) -> float:
    """The share of words that are neither; nothing to say of an empty reply."""
    words = reply.split()
    return sum(word not in ("happy", "good") for word in words) / len(words) if words else float("nan")

@reward("short", better="lower")
def short(prompt, reply: str) -> float:
    """Words."""
    return float(len(reply.split()))
'''
OPTIM = {"lr": 3e-3, "batch_size": 4, "schedule": "constant", "warmup": 0.0}
SAMPLING = {"max_new_tokens": 8}
STAGE = {
    "policy": "$base", "prompts": "$prompts", "reward": "happy", "sampling": SAMPLING, "optim": OPTIM,
    "minibatches": 2, "epochs": 2, "steps": 3,
}  # fmt: skip
LORA = {"r": 4, "targets": ["q_proj", "v_proj"]}
ONE_BACKBONE = {"reward": "$adapted", "doubtful_reward": "allow", "lora": LORA}


@pytest.fixture(autouse=True)
def rules(tmp_path):
    (tmp_path / "rules.py").write_text(RULE)
    load_plugin(tmp_path / "rules.py")
    yield
    forget_plugins()


@pytest.fixture
def inputs(artifacts, prompts, rows):
    words = ("cat", "dog", "mat", "log", "off", "good")
    shown = rows("shown", *({"prompt": f"the {word}", "completion": "so very sad"} for word in words))
    return artifacts | {"prompts": prompts, "shown": shown}


def steps_of(context) -> list[dict]:
    return [e for e in context.events if e["event"] == "step"]


def notes_of(context) -> str:
    return "\n".join(e["text"] for e in context.events if e["event"] == "note")


def tensors(folder) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}/{name}": tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
