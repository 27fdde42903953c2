"""Tiny random models, and a store to keep what tests make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from align.config import Lora, Model
from align.models.loaded import Loaded
from align.models.policy import from_scratch, load_policy
from align.models.smoke import shrunk
from align.models.tokenizers import train_tokenizer
from align.models.weights import save_model
from align.store import Artifact, Store

MANIFEST: dict[str, Any] = {
    "recipe": "tests", "type": "sft", "fields": {"epochs": 1}, "seed": 0, "finished": "2026-11-24T12:00:00+00:00",
    "device": "cpu", "versions": {"torch": torch.__version__}, "inputs": {},
}  # fmt: skip

Outside = Callable[..., Model]
Keep = Callable[..., Artifact]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    """Makes a tiny random model of an architecture, as a folder that somebody else might have made."""

    def make(architecture: str = "llama", dtype: str = "float32", seed: int = 0, **sizes: Any) -> Model:
        from transformers import AutoConfig

        folder = tmp_path / f"{architecture}-{dtype}-{seed}"
        config = shrunk(AutoConfig.for_model(architecture)) | sizes
        policy = from_scratch(config, train_tokenizer((), "bytes"), seed=seed)
        shake(policy.model.named_parameters(), 0.1, seed)  # attention of a fresh model is nearly uniform
        save_model(policy.model, folder, dtype)
        policy.tokenizer.save_pretrained(folder)
        return Model(path=str(folder), dtype=dtype)  # type: ignore[arg-type]

    return make


@pytest.fixture
def keep(store: Store) -> Keep:
    """Saves a loaded model as the artifact of a stage."""

    def make(loaded: Loaded, stage: str, kind: str = "policy", **inputs: Artifact) -> Artifact:
        loaded.save(store.workspace(stage) / "out", stage)
        taken = {name: {"name": made.key, "key": made.key} for name, made in inputs.items()}
        return store.commit(stage, kind, {"loss": 0.5}, MANIFEST | {"stage": stage, "inputs": taken})  # type: ignore[arg-type]

    return make


@pytest.fixture
def sft(store: Store, outside: Outside, keep: Keep) -> Artifact:
    """A trained adapter on an outside model."""
    return keep(trained(load_policy(outside(), store=store, train=True, lora=Lora(r=4))), "sft")


def shake(parameters: Any, scale: float = 0.1, seed: int = 0) -> None:
    """Moves parameters, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in parameters:
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def trained(loaded: Loaded, scale: float = 0.1, seed: int = 1) -> Any:
    """The same model after some training."""
    shake(loaded.trainable().items(), scale, seed)
    return loaded


def rows(count: int = 8) -> list[list[int]]:
    """Rows of token ids of different lengths."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(4, 260, (10 + 3 * i,), generator=generator).tolist() for i in range(count)]


def numbers(loaded: Loaded) -> list[float]:
    """What a model computes for these rows."""
    return [value for row in rows() for value in loaded.measure(row)]
