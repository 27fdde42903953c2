"""Several models on one backbone: critics and reward models as adapters and heads on a policy's weights.

A policy that trains an adapter leaves the weights beneath as they are, so whatever else is an adapter on the same
weights needs no copy of them: switching adapters is enough. The reference needs none either (`Policy.reference`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.data.chat import Chat
from align.data.tree import Batch
from align.models.adapters import Adapters
from align.models.contract import Contract
from align.models.heads import saved_head, score_of
from align.models.loaded import BASE, bottom
from align.models.logprobs import hidden_states, scores
from align.models.policy import Policy
from align.models.weights import load_tokenizer

if TYPE_CHECKING:
    from align.store import Artifact, Store

CRITIC = "critic"
"""Name of the critic's adapter beside a policy's stack."""


class Adapted(nn.Module):
    """What `RewardModel` is, with adapters and a head on a backbone that it does not own."""

    def __init__(self, adapters: Adapters, speaking: tuple[str, ...], head: nn.Linear):
        """speaking: the adapters that answer for it, from the lowest."""
        super().__init__()
        self.adapters, self.speaking, self.head = adapters, speaking, head

    def forward(self, batch: Batch, before: bool = False) -> Tensor:
        """(K,) float32 scores; with `before` (N,) values, as of `RewardModel`."""
        with self.adapters.active(self.speaking):
            hidden = hidden_states(self.adapters.model, batch)
        return scores(hidden.index_select(0, batch.source if before else batch.last), self.head)


@dataclass(frozen=True)
class Lodger:
    """A trained reward model on a policy's backbone. It reads text with its own tokenizer and template all the same."""

    module: Adapted
    model: PreTrainedModel
    """The backbone."""
    tokenizer: PreTrainedTokenizerBase
    contract: Contract

    @cached_property
    def chat(self) -> Chat:
        return Chat(self.tokenizer, self.contract.template, self.contract.stop)

    def measure(self, ids: list[int]) -> list[float]:
        """The score of a row of ids, read at its last token."""
        return score_of(self.module, self.model, ids, self.contract.pad)


def beneath(
    named: dict[str, Any] | None, adapters: Mapping[str, str], reward: Artifact, store: Store | None
) -> tuple[str, ...] | None:
    """What lies beneath a trained reward model's own adapter, in a policy's words; None where it has other weights.

    named: the policy, as an adapter on top would name it. adapters: those that it inherited, their names by the hash of
    their tensors. Two models share weights if their full weights and every adapter beneath are the same.
    """
    if named is None or not (reward.path / "adapter").is_dir():
        return None
    if bottom(named, store) != bottom(json.loads((reward.path / BASE).read_text()), store):
        return None
    found = [adapters.get(adapter) for adapter in Contract.read(reward.path).adapters[:-1]]
    return None if None in found else tuple(name for name in found if name)


def beneath_on(policy: Policy, reward: Artifact, store: Store | None) -> tuple[str, ...] | None:
    """The same for a policy that is about to train; None where it trains all weights."""
    if policy.own is None:
        return None
    names = policy.adapters.inherited(policy.own)
    return beneath(policy.beneath, dict(zip(policy.adapters.hashes(names), names, strict=True)), reward, store)


def lodge(policy: Policy, reward: Artifact, below: tuple[str, ...], name: str) -> Lodger:
    """A trained reward model on the policy's backbone, its adapter under a name of its own, verified.

    below: what `beneath_on` found.
    """
    policy.adapters.load(reward.path / "adapter", name)
    module = Adapted(policy.adapters, (*below, name), _head(reward.path).to(policy.model.device))
    tokenizer, contract = load_tokenizer(reward.path / "adapter"), Contract.read(reward.path)
    made = Lodger(module, policy.model, tokenizer, contract)
    dtype, hashes = str(policy.model.dtype).removeprefix("torch."), policy.adapters.hashes(module.speaking)
    contract.verify(tokenizer, dtype, hashes, made.measure, f"{reward.key} ({reward.path})")
    return made


def adapted_critic(policy: Policy, seed: int) -> Adapted:
    """A critic on the policy's backbone: an adapter of the shape of the policy's own on top of what both inherited,
    and a head, which expect nothing yet."""
    assert policy.own is not None
    policy.adapters.add_beside(CRITIC, like=policy.own, seed=seed)
    width = policy.model.get_output_embeddings().weight.shape[1]  # pyright: ignore[reportOptionalMemberAccess]
    head = nn.Linear(width, 1, bias=False)
    nn.init.zeros_(head.weight)
    speaking = (*policy.adapters.inherited(policy.own), CRITIC)
    return Adapted(policy.adapters, speaking, head.to(policy.model.device))


def train_only(policy: Policy, critic: nn.Module | None) -> None:
    """From now on the policy trains what it is to train, and a critic on its backbone; reward models never do."""
    if policy.own is None:
        return
    policy.adapters.train(policy.own, CRITIC)
    if isinstance(critic, Adapted):
        critic.head.float().requires_grad_(True)


def _head(folder: Path) -> nn.Linear:
    state = saved_head(folder)
    weight = state["weight"]
    head = nn.Linear(weight.shape[1], 1, bias="bias" in state, dtype=weight.dtype)
    head.load_state_dict(state)
    return head.requires_grad_(False)
