"""What a model is, without its weights: enough to make tokens of a stage's rows and to say what training will need."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from align.config import Lora, Model
from align.data.chat import Chat
from align.errors import ContractError
from align.models.adapters import Adapters
from align.models.contract import Contract
from align.models.loaded import BASE, PEFT, located, template_of
from align.models.weights import headers, load_tokenizer

if TYPE_CHECKING:
    from align.store import Artifact, Store

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Preview:
    """A model whose parameters have shapes but no values."""

    model: PreTrainedModel
    """On the meta device."""
    tokenizer: PreTrainedTokenizerBase
    contract: Contract
    adapter: int = 0
    """Numbers in the last adapter that the model arrives with."""

    @cached_property
    def chat(self) -> Chat:
        return Chat(self.tokenizer, self.contract.template, self.contract.stop)

    @cached_property
    def parameters(self) -> int:
        """Numbers in the weights; tied ones count once."""
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def scoring_parameters(self) -> int:
        """The same with one score in place of the vocabulary."""
        read: Any = self.model.get_input_embeddings()
        said: Any = self.model.get_output_embeddings()
        return self.parameters + said.weight.shape[1] - (0 if said.weight is read.weight else said.weight.numel())

    def adapter_parameters(self, lora: Lora) -> int:
        """Numbers in a new adapter. Raises CheckError where a target names no module."""
        model = copy.deepcopy(self.model)
        with torch.device("meta"):
            name = Adapters(model).add(lora, seed=0)
        return sum(p.numel() for path, p in model.named_parameters() if name in path.split("."))

    def training_bytes(self, lora: Lora | None, adapted: bool) -> int:
        """Bytes of weights, gradients and optimizer state while training, activations not counted.

        adapted: whether, without `lora`, the adapter that the model arrives with trains.
        """
        if lora is None and not adapted:
            return 16 * self.parameters
        return BYTES[self.contract.dtype] * self.parameters + 16 * self._trained(lora)

    def saved_bytes(self, lora: Lora | None, adapted: bool, checkpoints: int, best: bool = False) -> int:
        """Bytes on disk: the result, and training checkpoints (weights and two moments in float32) while it is made.

        best: whether the best weights are kept. That is up to three copies in float32: the best, the best as of the
        newest checkpoint, and one that is being written.
        """
        held = 12 * (checkpoints + best)
        if lora is None and not adapted:
            return self.parameters * (BYTES[self.contract.dtype] + held)
        return self._trained(lora) * (4 + held)

    def _trained(self, lora: Lora | None) -> int:
        return self.adapter_parameters(lora) if lora else self.adapter


def context_of(model: Any) -> int | None:
    """How many tokens a model can read, or None where its config sets no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def preview(source: Artifact | Model, base: Path, store: Store) -> Preview:
    """A model from an artifact or from outside, its weights left on disk."""
    if not isinstance(source, Model):
        contract = Contract.read(source.path)
        tokenizer = load_tokenizer(source.path / ("model" if (source.path / "model").is_dir() else "adapter"))
        return Preview(_bottom(source, store), tokenizer, contract, _numbers(source.path / "adapter"))
    source = located(source, base)
    folder = Path(source.path)
    if (folder / PEFT).is_file():
        below = json.loads((folder / PEFT).read_text())["base_model_name_or_path"]
        return replace(preview(source.model_copy(update={"path": below}), folder, store), adapter=_numbers(folder))
    model, tokenizer = _shapes(source.path, source.revision, source.dtype), load_tokenizer(source.path, source.revision)
    template = template_of(tokenizer, source.template)
    contract = Contract.of(model, tokenizer, source.path, template, source.stop, source.quantize)
    return Preview(model, tokenizer, contract)


def _numbers(folder: Path) -> int:
    """How many numbers the safetensors files of a folder hold."""
    return sum(math.prod(tensor["shape"]) for tensor in headers(folder).values())


def _bottom(source: Artifact, store: Store) -> PreTrainedModel:
    """The weights beneath an artifact's adapters."""
    if (source.path / "model").is_dir():
        return _shapes(str(source.path / "model"), "main", Contract.read(source.path).dtype)
    beneath = json.loads((source.path / BASE).read_text())
    if "model" in beneath:
        model = Model.model_validate(beneath["model"])
        return preview(model, Path(), store).model
    found = store.find(beneath["artifact"])
    if found is None:
        raise ContractError(f"{source.path}: its base, artifact {beneath['artifact']}, is not in the store")
    return _bottom(found, store)


def _shapes(path: str, revision: str, dtype: str) -> PreTrainedModel:
    options: dict[str, Any] = {} if Path(path).is_dir() else {"revision": revision}
    try:
        config = AutoConfig.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise ContractError(f"{path}: no model can be loaded from here: {str(error).splitlines()[0]}") from error
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    with contextlib.suppress(OSError):  # models without one say what they know in their config
        model.generation_config = GenerationConfig.from_pretrained(path, **options)
    return model
