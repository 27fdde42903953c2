"""How often the host would wait for a GPU: numbers read back in a step and in decoding, counted on the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from align.config import Optim, Sampling
from align.data.tree import Reply, Tree
from align.generate.hf import HFGenerator
from align.machine import Machine
from align.models.logprobs import LanguageModel
from align.train.learner import Learner, accelerator
from align.train.objectives import direct_preference
from tests.generate.test_hf import PROMPTS, policy


class Waits(TorchDispatchMode):
    """Counts operators whose result's shape or value the host must know before it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if any(i is not None and i.dtype == torch.bool for i in indices):
            self.seen["mask"] += 1
        elif name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount"):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("max_tokens", "parts"), [(512, 1), (32, 3)])
def test_a_step_waits_once_however_it_is_cut(
    tiny: Callable[..., Any], pairs: list[Tree], max_tokens: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For losses, counts and the norm of the gradient, in one transfer, which no operator shows."""
    numbers = {"reference_chosen": -20.0, "reference_rejected": -21.0, "label": 1.0, "weight": 1.0}
    trees = [Tree(t.id, t.prompt, tuple(Reply(r.ids) for r in t.replies), dict(numbers)) for t in pairs]
    machine = Machine(device="cpu", max_tokens=max_tokens)
    optim = Optim(schedule="constant", warmup=0.0)
    learner = Learner(
        LanguageModel(tiny("llama")), optim, lr=1e-2, steps=9, accelerator=accelerator(machine), machine=machine
    )
    objective = direct_preference("sigmoid", 0.1)
    for _ in range(3):  # then it is known that all weights move
        learner.update(objective, trees)
    assert len(learner._parts(trees)) == parts
    transfers: list[Tensor] = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: transfers.append(self) or tolist(self))
    with Waits() as waits:
        learner.update(objective, trees)
    assert not waits.seen
    assert [len(sent) for sent in transfers] == [2 * 5 + 1]  # the loss and four metrics with their counts, and the norm


def test_decoding_waits_once_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tokens and log-probs, in one transfer. With padding, transformers asks its mask whether it masks anything."""
    asked, transfers, tolist = policy(stop=()), Counter[int](), Tensor.tolist
    asked.model.set_attn_implementation("eager")  # the decoder of `align.models.decoder` is for CPUs alone
    made = []
    for limit in (4, 9):
        with Waits() as waits, monkeypatch.context() as patched:
            patched.setattr(Tensor, "tolist", lambda self, at=limit: transfers.update([at]) or tolist(self))
            HFGenerator(asked).generate(PROMPTS[:1], Sampling(max_new_tokens=limit, n=3), seed=0)
        made.append(waits.seen)
    assert made[1] == made[0]
    assert transfers[9] - transfers[4] == 5
