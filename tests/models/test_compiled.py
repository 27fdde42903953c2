"""Compiled layers: the numbers of the model as it is, for rows of any shape by the same few graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._dynamo.testing import CompileCounterWithBackend

from align.data.tree import Reply, Tree, collate
from align.models.compiled import compile_layers
from align.models.logprobs import LanguageModel


def batches() -> list[Any]:
    draw = np.random.default_rng(0)

    def ids() -> np.ndarray:
        return draw.integers(3, 300, draw.integers(2, 20)).astype(np.int32)

    return [collate([Tree(str(i), ids(), (Reply(ids()), Reply(ids()))) for i in range(n)]) for n in (2, 3, 5, 1, 4)]


def stepped(module: LanguageModel) -> list[torch.Tensor]:
    """Log-probs of batches of several shapes, then the gradients of their sum, with activations kept and not kept."""
    made = []
    for checkpointing in (False, True):
        if checkpointing:
            module.model.gradient_checkpointing_enable({"use_reentrant": False})
        logps = [module(batch).logp for batch in batches()]
        torch.cat(logps).sum().backward()
        made += [logp.detach() for logp in logps] + [p.grad.clone() for p in module.parameters() if p.grad is not None]
        module.zero_grad()
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("family", "lora"), [("llama", True), ("gpt2", False)])
def test_numbers_are_those_of_the_model_as_it_is(tiny: Callable[..., Any], family: str, lora: bool) -> None:
    def module() -> LanguageModel:
        model = tiny(family)
        model.base_model._supports_attention_backend = False  # dense masks, as a GPU has them
        return LanguageModel(get_peft_model(model, LoraConfig(init_lora_weights=False)) if lora else model).train()

    torch.manual_seed(0)
    expected = stepped(module())
    torch.manual_seed(0)
    compiled, graphs = module(), CompileCounterWithBackend("aot_eager")
    names = list(compiled.state_dict())
    assert compile_layers(compiled.model, graphs) == 2
    found = stepped(compiled)
    assert graphs.frame_count
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert list(compiled.state_dict()) == names
    met = graphs.frame_count
    stepped(compiled)
    assert graphs.frame_count == met, "no shape asks for another graph"
