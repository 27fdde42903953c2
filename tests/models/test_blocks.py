"""Attention by chains: what it sees, that it is what a dense mask gives, and memory that grows with a row's length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from align.data.tree import Reply, Tree, collate
from align.models import blocks
from align.models.blocks import Chain, attend, chains_of, dense_mask
from align.models.logprobs import LanguageModel


def tree(prompt: int, *replies: int) -> Tree:
    draw = np.random.default_rng(prompt)
    ids = [draw.integers(3, 300, n).astype(np.int32) for n in (prompt, *replies)]
    return Tree(str(prompt), ids[0], tuple(map(Reply, ids[1:])))


@pytest.fixture
def in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(blocks, "CALL", 0)
    monkeypatch.setattr(blocks, "CHUNK", 4)
    blocks._masks.cache_clear()
    yield
    blocks._masks.cache_clear()


def test_a_tree_is_a_chain_and_its_further_replies() -> None:
    """Two trees in a row, and a short one with padding in the next; an empty reply leaves nothing."""
    batch = collate([tree(5, 3, 2, 4), tree(3, 2), tree(2, 0, 3), tree(14, 1, 1, 1)])
    assert chains_of(batch.until) == [
        Chain(15, ()), Chain(1, ((0, 14),)), Chain(1, ((0, 14),)),
        Chain(8, ()), Chain(2, ((3, 5),)), Chain(4, ((3, 5),)), Chain(3, ()),
        Chain(5, ()), Chain(5, ()), Chain(7, ()),
    ]  # fmt: skip


def test_a_branch_of_a_branch_sees_the_beginnings_of_both() -> None:
    """Tokens 0-1, then 2-3 with the branches 4 and 5, then 6, which sees 0-1 only."""
    until = torch.tensor([[7, 7, 6, 5, 5, 6, 7]])
    assert chains_of(until) == [Chain(5, ()), Chain(1, ((0, 3),)), Chain(1, ((0, 2),))]
    deep = torch.tensor([[7, 6, 3, 6, 5, 6, 7]])  # 0 > 1 > (2, 3 > (4, 5)), then 6
    assert chains_of(deep) == [Chain(3, ()), Chain(2, ((0, 2),)), Chain(1, ((0, 2), (1, 1))), Chain(1, ((0, 1),))]


@pytest.mark.usefixtures("in_small_chunks")
@pytest.mark.parametrize("heads", [4, 2])
def test_chains_give_what_a_dense_mask_gives(heads: int) -> None:
    """Values and gradients, with as many heads of keys as of queries and with half as many."""
    until = collate([tree(9, 7, 12, 5), tree(6, 2, 4), tree(8, 3)]).until
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 33, 8, dtype=torch.double, requires_grad=True) for n in (4, heads, heads))
    found, _ = attend(torch.nn.Module(), q, k, v, until[:, None, None], scaling=0.3)
    mask = dense_mask(until, torch.double)
    wanted = scaled_dot_product_attention(q, k, v, mask, scale=0.3, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(wanted)
    gradients = [torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (found, wanted)]
    torch.testing.assert_close(*gradients)


@pytest.mark.usefixtures("in_small_chunks")
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "phi3"])
def test_a_model_says_the_same_by_chains_and_by_dense_masks(
    tiny: Callable[..., Any], pairs: list[Tree], family: str
) -> None:
    """Log-probs and gradients; where activations are recomputed, too."""
    model, batch = tiny(family, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0), collate(pairs)

    def measured() -> list[Tensor]:
        model.zero_grad()
        logp = LanguageModel(model)(batch).logp
        logp.square().sum().backward()
        return [logp.detach(), *(p.grad.clone() for p in model.parameters())]

    found = measured()
    model.train().gradient_checkpointing_enable()
    again = measured()
    model.gradient_checkpointing_disable()
    model.eval().set_attn_implementation("eager")
    for ours, recomputed, wanted in zip(found, again, measured(), strict=True):
        scale = wanted.abs().max().item()
        torch.testing.assert_close(ours, wanted, atol=2e-5 * scale, rtol=0)
        torch.testing.assert_close(recomputed, ours, atol=1e-6 * scale, rtol=0)


class Largest(TorchDispatchMode):
    """The numbers of the largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, tuple | list) else (made,):
            if isinstance(value, Tensor):
                self.numbers = max(self.numbers, value.numel())
        return made


def test_memory_grows_with_the_length_of_a_row_and_not_with_its_square(tiny: Callable[..., Any]) -> None:
    """8,000 tokens: no tensor is larger than `CHUNK` queries by all keys, and what is kept for the backward pass is
    twice as much as for half of the tokens."""
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 1}
    model = tiny("llama", max_position_embeddings=8192, **heads)
    kept = []
    for part in (2, 1):
        batch = collate([tree(2000 // part, 1000 // part, 4000 // part, 1000 // part)])
        storages: dict[int, int] = {}

        def keep(saved: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
            return saved

        with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            LanguageModel(model)(batch).logp.sum().backward()
        assert largest.numbers <= blocks.CHUNK * (batch.ids.shape[1] + 1024)
        kept.append(sum(storages.values()))
    assert kept[1] < 2.1 * kept[0]
