"""Reward models: a policy's backbone with one score in place of the vocabulary.

In memory and on disk they are transformers' sequence classifiers with one label, so others' reward models load like
ours, and ours elsewhere. Where the backbone is adapted, the score head, which trains with the adapter, is a file of its
own beside it (`head.safetensors`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PretrainedConfig

from align.config import Lora, Model
from align.data.tree import Reply, Tree, collate
from align.errors import CheckError, ContractError
from align.models.contract import Contract
from align.models.loaded import Handover, Loaded, check_handover
from align.models.logprobs import RewardModel
from align.models.weights import Head, headers

if TYPE_CHECKING:
    from align.store import Artifact, Store

HEAD = "head.safetensors"


@dataclass
class Reward(Loaded):
    """A reward model. It reads text with its own tokenizer and template, whatever the policy's are."""

    head: ClassVar[Head] = "score"

    @cached_property
    def module(self) -> RewardModel:
        """Batch -> scores; what trains."""
        return RewardModel(self.model)

    @property
    def score_head(self) -> nn.Linear:
        """The layer that turns a hidden state into a score."""
        head: Any = getattr(self.model, "score", None)
        if not isinstance(head, nn.Linear) or head.out_features != 1:
            raise ContractError(f"{self.contract.maker}: a {type(self.model).__name__} has no linear head of one score")
        return head

    def measure(self, ids: list[int]) -> list[float]:
        """The score of a row of ids, read at its last token."""
        return score_of(self.module, self.model, ids, self.contract.pad)

    def read_head(self, folder: Path) -> None:
        state = saved_head(folder)
        self.score_head.to(state["weight"].dtype).load_state_dict(state)

    def prepare(self, lora: Lora | None, handover: Handover, seed: int) -> None:
        """Makes ready for training, with a new head that trains in float32 beside the adapter or all weights."""
        super().prepare(lora, handover, seed)
        head = self.score_head.float()
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(head.weight.shape, generator=generator) / math.sqrt(head.in_features + 1)
        with torch.no_grad():
            head.weight.copy_(drawn)
        head.requires_grad_(True)

    def save(self, folder: Path, maker: str) -> Contract:
        """Writes the head beside the adapter or within the full weights, and proves by the file that it is there."""
        shape = list(self.score_head.weight.shape)
        if self.own is not None:
            folder.mkdir(parents=True, exist_ok=True)
            save_file({k: v.contiguous().cpu() for k, v in self.score_head.state_dict().items()}, folder / HEAD)
        contract = super().save(folder, maker)
        place, name = (folder / "model", "score.weight") if self.own is None else (folder, "weight")
        if headers(place).get(name, {}).get("shape") != shape:
            raise ContractError(f"{place}: the score head was not saved: no tensor {name} of shape {shape}")
        return contract


def check_scorable(config: PretrainedConfig) -> None:
    """Raises CheckError where transformers has no sequence classifier for models of this kind."""
    kinds = {type(config), type(config.get_text_config())}
    if not any(kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING for kind in kinds):
        raise CheckError(
            f"transformers has no sequence classifier for {config.model_type}, so a reward model, or a critic of its "
            "own, can't be made of it: start from another model, or set value.start: shared"
        )


def saved_head(folder: Path) -> dict[str, Tensor]:
    """The tensors of the score head that lies beside an adapter."""
    if not (folder / HEAD).is_file():
        raise ContractError(f"{folder}: the score head is missing: there is no {HEAD}")
    return load_file(folder / HEAD)


@torch.no_grad()
def score_of(module: nn.Module, backbone: nn.Module, ids: list[int], pad: int) -> list[float]:
    """The score that a reward model gives a row of ids, in evaluation mode."""
    tree = Tree("", np.array([], np.int32), (Reply(np.array(ids, np.int32)),))
    batch = collate([tree], layout="plain", pad=pad).to(next(backbone.parameters()).device)
    was = backbone.training
    backbone.eval()
    score = module(batch)
    backbone.train(was)
    return score.tolist()


def load_reward(
    source: Artifact | Model,
    *,
    base: Path | None = None,
    store: Store | None = None,
    device: str = "cpu",
    train: bool = False,
    lora: Lora | None = None,
    adapter: Handover = "new",
    seed: int = 0,
) -> Reward:
    """A trained reward model, verified; or with `train` a new one on the backbone of a policy.

    The other arguments are those of `load_policy`; `seed` draws the new head too.
    """
    if train:
        check_handover(source, lora, adapter, base)  # before weights are read
    reward = Reward.load(source, base, store, device)
    if not (train or reward.has_head):
        raise ContractError(f"{reward.contract.maker}: a language model, not a reward model: it has no score head")
    reward.model.requires_grad_(False)
    if train:
        reward.prepare(lora, adapter, seed)
    return reward
