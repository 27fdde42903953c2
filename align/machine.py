"""Settings of the machine: how a result is computed, never what it is. They are in no recipe and in no key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from align.config import Config
from align.errors import Problem, RecipeError


class Machine(Config):
    """Each field can be given by an environment variable, `ALIGN_MAX_TOKENS=4096`, or the option of the same name."""

    store: Path = Path("runs")
    """Folder of artifacts, caches and links, relative to where align is started."""
    processes: int = Field(default=1, ge=1)
    """Ranks of a training stage, launched by accelerate."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run."""
    max_tokens: int | None = Field(default=None, ge=16)
    """Tokens of one micro-batch, padding included: the one memory knob. None means 1,024 on a CPU, where more is no
    faster, and 16,384 on a GPU."""
    attention: Literal["sdpa", "flex"] = "sdpa"
    """How replies that share a prompt attend on CUDA: by dense masks, or by FlexAttention, which skips what nobody sees
    but was never measured on a GPU."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Compile the layers of models that pretrain, sft, reward_model and dpo train: fewer and larger kernels, after a
    minute or more of compiling. Never measured on a GPU; on a CPU it gains nothing."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of each process; none means what torch chooses, at most the cores / processes."""
    sample_batch: int = Field(default=64, ge=1)
    """Replies that are generated side by side."""
    generator: Literal["auto", "hf", "continuous", "vllm"] = "auto"
    """Who writes the replies of a model in this process: our own loop around transformers (`hf`), transformers'
    continuous batching (`continuous`), or vLLM on the same GPU (`vllm`, installed by `pip install 'align[vllm]'`). auto
    is vllm where it is installed and there is a GPU, else hf. All draw from the same distribution, but not the same
    tokens: with hf a reply is the same in any company, and bit-equal on a CPU; neither of the others ran on a GPU yet.
    """
    vllm_memory: float = Field(default=0.3, gt=0, lt=1)
    """The share of a GPU's memory that vLLM may take, weights included, while it writes. While models train it sleeps
    and has given most of it back."""
    track: tuple[str, ...] = ()
    """Trackers through accelerate: tensorboard, wandb, mlflow, trackio; their files go to `.store/tracking`. None by
    default: nothing leaves the machine."""


def machine(**options: object) -> Machine:
    """Machine settings from options (None means not given), then `ALIGN_*` variables, then defaults."""
    values: dict[str, object] = {}
    for name in Machine.model_fields:
        found = os.environ.get(f"ALIGN_{name.upper()}")
        if found:
            values[name] = [part.strip() for part in found.split(",")] if name == "track" else found
    values |= {k: v for k, v in options.items() if v is not None}
    try:
        return Machine.model_validate(values)
    except ValueError as error:
        problems = [Problem(f"machine.{'.'.join(map(str, e['loc']))}", e["msg"]) for e in error.errors()]  # type: ignore[attr-defined]
        raise RecipeError(problems) from None
