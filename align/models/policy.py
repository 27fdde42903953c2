"""Policies: language models with everything a stage needs to use, train and hand them on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from align.config import Lora, Model
from align.errors import AlignError, CheckError, suggestion
from align.models.adapters import Adapters
from align.models.contract import Contract, logps
from align.models.loaded import Handover, Loaded, agree, check_handover, template_of
from align.models.weights import Head

if TYPE_CHECKING:
    from align.store import Artifact, Store


@dataclass
class Policy(Loaded):
    """A language model."""

    head: ClassVar[Head] = "language"

    _frozen: Policy | None = field(default=None, repr=False)

    def measure(self, ids: list[int]) -> list[float]:
        return logps(self.model, ids)

    def read_head(self, folder: Path) -> None:
        """None: the output layer is one of the model's own."""

    @contextmanager
    def reference(self) -> Iterator[PreTrainedModel]:
        """The policy as it was when this stage began, without gradients or dropout, whatever was trained since.

        With a new adapter: the same weights with that adapter off and the inherited stack on, never the bare base of a
        tuned parent. With one that goes on training: its frozen copy instead of it. With full weights: a second model,
        loaded on first use. Before the first update the policy is its own reference, at no cost.
        """
        if self.own is None and self.trainable():
            yield self._parent().model
            return
        was = self.model.training
        with self.adapters.active(self.adapters.inherited(self.own)), torch.no_grad():
            try:
                yield self.model.eval()
            finally:
                self.model.train(was)

    def _parent(self) -> Policy:
        if self._frozen is None:
            if self.again is None:
                raise AlignError("a model from scratch has no reference")
            self._frozen = self.again()
            self._frozen.model.requires_grad_(False)
        return self._frozen


def load_policy(
    source: Artifact | Model,
    *,
    base: Path | None = None,
    store: Store | None = None,
    device: str = "cpu",
    train: bool = False,
    lora: Lora | None = None,
    adapter: Handover = "new",
    seed: int = 0,
) -> Policy:
    """A policy from an artifact or from outside, verified against its contract.

    base: the folder at which relative paths of outside models start. train: prepare it for training: with `lora` or
    `adapter: continue` one adapter and nothing else, otherwise all weights, in float32 whatever they are saved in.
    seed: of the new adapter's random half.
    """
    if train:
        check_handover(source, lora, adapter, base)  # before weights are read
    policy = Policy.load(source, base, store, device)
    policy.model.requires_grad_(False)
    if train:
        policy.prepare(lora, adapter, seed)
    return policy


def from_scratch(
    config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, *, template: str | None = None, seed: int = 0
) -> Policy:
    """A policy with random weights, all training, such as `{architecture: llama, hidden_size: 128, ...}`.

    The sizes are fields of the architecture's transformers config; the tokenizer gives the vocabulary and its ids.
    template: `plain`, `raw`, or jinja; none means the tokenizer's own, or `plain`.
    """
    sizes = dict(config)
    name = sizes.pop("architecture", "llama")
    try:
        known = AutoConfig.for_model(name)
    except ValueError as error:
        raise CheckError(f"architecture: transformers knows no {name!r}") from error
    names = known.to_dict().keys() | known.attribute_map.keys()
    if unknown := sorted(sizes.keys() - names):
        raise CheckError(f"{name} has no size {unknown[0]!r}.{suggestion(unknown[0], names)}")
    given = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in ("bos", "eos", "pad")}
    made = AutoConfig.for_model(name, **{"vocab_size": len(tokenizer), **given, **sizes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    contract = Contract.of(model, tokenizer, "scratch", template_of(tokenizer, template))
    return Policy(agree(model, contract), tokenizer, contract, Adapters(model))
