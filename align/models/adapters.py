"""A stack of LoRA adapters on one model: each inherited from a stage, the last one perhaps in training.

PEFT adds every active adapter's output, so a stack is the sum of its parts. What PEFT does not keep is who trains: to
activate adapters it switches gradients on for those and off for all others. So nobody but this class activates any.

Further adapters may lie beside the stack, under names of their own: a critic's, a reward model's, a frozen copy. They
are silent until somebody makes them active.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from align.config import Lora
from align.errors import CheckError, ContractError, suggestion

SCORE = "score"
"""Name of a reward model's head."""
REFERENCE = "reference"
"""Name of the frozen copy of an adapter that goes on training."""


class Adapters:
    """The adapters of one model, in order. The model itself is what one calls: PEFT puts its layers into it."""

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.names: list[str] = []
        self._peft: PeftModel | None = None

    def __bool__(self) -> bool:
        return bool(self.names)

    def add(self, lora: Lora, seed: int) -> str:
        """Puts a new adapter, which computes zero until trained, on top of the stack. Returns its name."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self._insert(self.config(lora))

    def config(self, lora: Lora) -> LoraConfig:
        """PEFT's words for a new adapter on this model."""
        if lora.targets != "all-linear":
            self._check_targets(lora.targets)
        return LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha if lora.alpha is not None else 2 * lora.r,  # type: ignore[arg-type]
            lora_dropout=lora.dropout,
            target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
            exclude_modules=None if self.model.can_generate() else [SCORE],  # which trains whole
            use_rslora=lora.rslora,
            task_type=_task(self.model),
        )

    def load(self, folder: Path, name: str | None = None) -> str:
        """Puts a saved adapter, frozen, on top of the stack, or beside it under a name of its own.

        Missing and unexpected tensors are fatal.
        """
        config = cast(LoraConfig, LoraConfig.from_pretrained(str(folder)))
        config.task_type = _task(self.model)
        if config.exclude_modules == {SCORE} and not hasattr(self.model, SCORE):
            config.exclude_modules = None  # of a reward model, on a policy: there is no head to leave alone
        name = self._insert(config, name)
        assert self._peft is not None
        weights = load_peft_weights(str(folder), device="cpu")
        expected = self.state(name).keys()
        for what, keys in (("missing", expected - weights.keys()), ("unexpected", weights.keys() - expected)):
            if keys:
                raise ContractError(f"{folder}: {len(keys)} {what} adapter tensors, such as {min(keys)}")
        set_peft_model_state_dict(self._peft, weights, adapter_name=name)
        return name

    def add_beside(self, name: str, like: str, seed: int) -> None:
        """Puts a new adapter, which computes zero until trained, beside the stack, in the shape of another one."""
        assert self._peft is not None
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._insert(cast(LoraConfig, self._peft.peft_config[like]), name)

    def freeze_copy(self, name: str) -> None:
        """Keeps the adapter as it is now beside the stack, under the name `reference`."""
        self.add_beside(REFERENCE, like=name, seed=0)
        set_peft_model_state_dict(cast(PeftModel, self._peft), self.state(name), adapter_name=REFERENCE)

    def inherited(self, own: str | None) -> list[str]:
        """The adapters that speak for the policy as it was before `own` was trained."""
        copied = [REFERENCE] if own and self._peft and REFERENCE in self._peft.peft_config else []
        return [name for name in self.names if name != own] + copied

    def train(self, *names: str) -> None:
        """From now on exactly these adapters' tensors get gradients, and the model's own get none."""
        for path, parameter in self.model.named_parameters():
            parameter.requires_grad_(not set(names).isdisjoint(path.split(".")))

    def save_memory(self) -> None:
        """Computes activations again in the backward pass, by the adapters that were active in the forward pass."""
        self.model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": self._forward_and_repetition})
        self.model.enable_input_require_grads()

    @contextmanager
    def active(self, names: Sequence[str]) -> Iterator[None]:
        """Within it exactly these adapters speak; who trains is the same before, within and after."""
        before = self._speaking()
        if before == list(names):
            yield
            return
        self._activate(names)
        try:
            yield
        finally:
            self._activate(before)

    def state(self, name: str) -> dict[str, Tensor]:
        """The tensors of one adapter, by the names that PEFT saves them under."""
        assert self._peft is not None
        return get_peft_model_state_dict(self._peft, adapter_name=name, save_embedding_layers=False)

    def hashes(self, names: Sequence[str] | None = None) -> tuple[str, ...]:
        """Names each of these adapters, by default those of the stack, by its tensors."""
        return tuple(_hash(self.state(name)) for name in (self.names if names is None else names))

    def save(self, name: str, folder: Path, base: str | None = None) -> None:
        """Writes one adapter as a PEFT folder. base: what it says it belongs on."""
        assert self._peft is not None
        config: Any = copy.copy(self._peft.peft_config[name])
        config.inference_mode, config.base_model_name_or_path = True, base
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().contiguous().cpu() for k, v in self.state(name).items()}
        save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(str(folder))

    @torch.no_grad()
    def merged_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight as `merge` would leave it, under its name, the model itself untouched. Tied ones come once.

        Raises CheckError for adapters that are no sum with the weight.
        """
        if self._peft is not None and self._adapts_tied_embeddings():
            raise CheckError("an adapter on embeddings that are tied would be merged into both of them")
        for name, parameter in self.model.named_parameters():
            if any(part.startswith("lora_") for part in name.split(".")):
                continue
            owner, base, kind = name.rpartition(".base_layer.")
            if base and kind == "weight":
                parameter = self._summed(cast(Any, self.model.get_submodule(owner)), parameter)
            yield f"{owner}.{kind}" if base else name, parameter

    def _summed(self, layer: Any, weight: Tensor) -> Tensor:
        """A layer's weight and what the stack adds to it, summed in float32."""
        speaking = [name for name in self.names if name in layer.scaling]
        if any(name in layer.lora_variant or layer.lora_bias[name] for name in speaking):
            raise CheckError("adapters with a bias, or of a kind such as DoRA, are no sum with the weight")
        total = weight.float()
        for name in speaking:
            total = total + layer.get_delta_weight(name).float()
        return total.to(weight.dtype)

    def merge(self) -> PreTrainedModel:
        """Adds the whole stack to the model's weights for good and empties it."""
        if self._peft is not None:
            if getattr(self.model, "is_quantized", False):
                raise ContractError("adapters on 4-bit weights can't be merged without damage; export the adapter")
            self._untie_adapted_embeddings()
            self._activate(self.names)
            self._peft.merge_and_unload(safe_merge=True)
            self._peft, self.names = None, []
            self.model._hf_peft_config_loaded = False
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        return self.model

    def _insert(self, config: LoraConfig, name: str | None = None) -> str:
        added = name or f"adapter{len(self.names)}"
        if self._peft is None:
            self._peft = PeftModel(self.model, config, adapter_name=added)
        else:
            self._peft.add_adapter(added, config)
        if name is None:
            self.names.append(added)
        self._activate(self.names)
        self.train()
        return added

    def _speaking(self) -> list[str]:
        return [] if self._peft is None else list(cast(Any, self._peft.base_model).active_adapters)

    def _forward_and_repetition(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """The surroundings of a checkpointed layer's forward pass, and of its repetition before the backward pass."""
        return nullcontext(), self.active(self._speaking())

    def _activate(self, names: Sequence[str]) -> None:
        assert self._peft is not None
        training = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        tuner: Any = self._peft.base_model
        tuner.set_adapter(list(names))
        for parameter, flag in training:
            parameter.requires_grad_(flag)

    def _check_targets(self, targets: Sequence[str]) -> None:
        ends = {name.rpartition(".")[2] for name, module in self.model.named_modules() if isinstance(module, nn.Linear)}
        for target in targets:
            if not any(f".{name}".endswith(f".{target}") for name, _ in self.model.named_modules()):
                raise CheckError(f"lora.targets: no module is called {target!r}.{suggestion(target, ends)}")

    def _adapts_tied_embeddings(self) -> bool:
        inputs, outputs = cast(Any, self.model.get_input_embeddings()), cast(Any, self.model.get_output_embeddings())
        adapted = hasattr(inputs, "base_layer") or hasattr(outputs, "base_layer")
        return outputs is not None and adapted and self.model.config.tie_word_embeddings

    def _untie_adapted_embeddings(self) -> None:
        """Gives the output layer weights of its own before one of the two is merged into, or the other would change."""
        if self._adapts_tied_embeddings():
            outputs = cast(Any, self.model.get_output_embeddings())
            layer = getattr(outputs, "base_layer", outputs)
            layer.weight = nn.Parameter(layer.weight.detach().clone())
            self.model.config.tie_word_embeddings = False


def _task(model: PreTrainedModel) -> TaskType | None:
    """No task for reward models: given one, PEFT would train a copy of the score head; here the head itself trains."""
    return TaskType.CAUSAL_LM if model.can_generate() else None


def _hash(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().contiguous().cpu()
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
