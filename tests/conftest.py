"""Fixtures that all tests share: a byte-level tokenizer and tiny random models of several families."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from align.data.tree import Reply, Tree

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on two cores that others use take ten times as long
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"].partition(",")[0]))
gc.disable()  # while modules are imported: to look for garbage among them takes two of ten seconds


def pytest_collection_finish() -> None:
    """Keeps what was imported out of the collector's way, for stages that give memory back would walk it each time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """A tokenizer of bytes, whose bos, eos and pad are three different ids, with the `plain` template."""
    from align.models.tokenizers import train_tokenizer

    return train_tokenizer((), "bytes")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared, the folder of real models and data")
    return folder


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """Makes a random two-layer causal model of a family, such as `gpt2`, in float32 and without dropout.

    Weights are larger than at a usual start: attention would be nearly uniform, and a wrong mask would not show.
    """

    def make(family: str, seed: int = 0, **sizes: Any) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(family)
        for name, value in (SIZES | sizes).items():
            if hasattr(config, name):
                setattr(config, name, value)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()

    return make


@pytest.fixture(scope="session")
def pairs() -> list[Tree]:
    """Four trees of two replies, of unequal lengths; two of them fit into one row."""
    draw = np.random.default_rng(0)
    made = []
    for name, sizes in enumerate([(9, 7, 12), (3, 2, 1), (1, 6, 4), (5, 3, 3)]):
        prompt, chosen, rejected = (draw.integers(3, 300, n).astype(np.int32) for n in sizes)
        made.append(Tree(str(name), prompt, (Reply(chosen), Reply(rejected))))
    return made
