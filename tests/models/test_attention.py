"""Which models get trees, and that a mask means the same in each of its forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from align.data.tree import Reply, Tree, collate
from align.errors import CheckError
from align.models import attention
from align.models.attention import backbone_inputs, block_mask, layout_for, prefer_flex
from align.models.blocks import dense_mask
from align.models.logprobs import Projection

FAMILIES = ["gpt2", "llama", "qwen2", "qwen3", "gemma", "mixtral", "phi3", "gpt_neox", "opt", "cohere", "granite"]
SMALL_HYBRID = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "mamba_d_state": 4,
}


def config_of(family: str, **fields: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **fields)


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_plain_attention_get_trees(family: str) -> None:
    layout, reason = layout_for(config_of(family))
    assert layout == "tree", reason


def test_a_window_shorter_than_the_row_means_plain_rows_and_a_longer_one_does_not() -> None:
    config = config_of("mistral", sliding_window=512)
    assert layout_for(config, max_row=512)[0] == "tree"
    layout, reason = layout_for(config, max_row=513)
    assert layout == "plain" and "computes trees wrongly" in reason


def test_a_state_space_hybrid_gets_plain_rows() -> None:
    layout, reason = layout_for(config_of("jamba", **SMALL_HYBRID))
    assert layout == "plain" and "computes trees wrongly" in reason


@pytest.mark.parametrize("family", ["bloom", "mpt"])
def test_linear_biases_mean_plain_rows(family: str) -> None:
    assert layout_for(config_of(family))[0] == "plain"


def test_a_projection_that_we_would_get_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Projection, "of", classmethod(lambda cls, model, temperature=1.0: cls()))
    with pytest.raises(CheckError, match="own logits"):
        layout_for(config_of("granite", logits_scaling=8.0))


def test_the_check_leaves_the_run_its_random_numbers() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    layout_for(config_of("llama"))
    assert torch.equal(torch.rand(1), wanted)


def test_a_mask_shows_the_prompt_and_the_reply_itself() -> None:
    """One tree of prompt 0-1, replies 2-3 and 4, and one token of padding, written out."""
    until = torch.tensor([[5, 5, 4, 4, 5, 6]])
    seen = [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0]]
    seen.append([0, 0, 0, 0, 0, 1])
    assert (dense_mask(until, torch.float32)[0, 0] == 0).int().tolist() == seen


def test_block_masks_of_flex_attention_show_what_dense_masks_show(pairs: list[Tree]) -> None:
    until = collate(pairs).until
    mask, (rows, width) = block_mask(until), until.shape
    index = [torch.arange(n).view([-1 if d == i else 1 for d in range(3)]) for i, n in enumerate((rows, width, width))]
    seen = mask.mask_mod(index[0], torch.tensor(0), index[1], index[2])
    assert torch.equal(seen, dense_mask(until, torch.float32)[:, 0] == 0)


@pytest.mark.parametrize("size", [5, 256, 700])
def test_blocks_of_flex_attention_are_those_that_torch_finds(size: int) -> None:
    """Which are seen at all and which by all, where torch looks at every pair."""
    until = _packed(size, seed=0)
    rows, width = until.shape
    mine = block_mask(until)
    torchs = create_block_mask(lambda r, h, q, k: (k <= q) & (q < until[r, k]), rows, None, width, width, "cpu")
    assert torch.equal(mine.to_dense(), torchs.to_dense())
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(mine, name), getattr(torchs, name)), name
    assert mine.seq_lengths == torchs.seq_lengths


def test_flex_attention_is_compiled_once_for_a_shape() -> None:
    """Whatever trees a row holds."""
    graphs = CompileCounter()
    attend = torch.compile(flex_attention, backend=graphs)
    for seed, size in enumerate((256, 256, 300, 256, 300, 300)):
        until = _packed(size, seed)[:1]
        states = torch.randn(1, 2, until.shape[1], 16, generator=torch.Generator().manual_seed(seed))
        found = attend(states, states, states, block_mask=block_mask(until))
        hidden = dense_mask(until, torch.float32)
        torch.testing.assert_close(found, scaled_dot_product_attention(states, states, states, hidden))
    assert graphs.frame_count == 2


def _packed(size: int, seed: int) -> torch.Tensor:
    """Visibilities of eight trees in rows of so many tokens."""
    draw = np.random.default_rng(seed)
    trees = [Tree(str(i), *_ids(draw, *draw.integers(size // 12, size // 7 + 1, 3))) for i in range(7)]
    return collate([Tree("whole", *_ids(draw, size - 2, 1, 1)), *trees]).until


def test_flex_attention_meets_few_shapes(tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compiled once for each. Batches of 20 to 400 tokens, hardly two of one shape, come as rows of 64 to 512."""
    monkeypatch.setattr(attention, "SHORTEST", 64)
    draw, model = np.random.default_rng(0), tiny("llama", hidden_size=32)
    model.set_attn_implementation("flex_attention")
    own, met = set(), set()
    for count in range(1, 21):
        batch = collate([Tree(str(i), *_ids(draw, *size)) for i, size in enumerate(draw.integers(4, 8, (count, 3)))])
        inputs = backbone_inputs(model.model, batch)
        own.add(tuple(batch.ids.shape))
        met |= {(*inputs["input_ids"].shape, *inputs["position_ids"].shape, *inputs["attention_mask"].shape)}
    assert len(own) > 15
    assert met == {(1, n, 1, n, 1, 1, n, n) for n in (64, 128, 256, 512)}


def _ids(draw: np.random.Generator, *sizes: int) -> tuple[np.ndarray, tuple[Reply, ...]]:
    prompt, *replies = (draw.integers(3, 300, n).astype(np.int32) for n in sizes)
    return prompt, tuple(map(Reply, replies))


def test_trees_are_exact_under_flex_attention_where_a_model_has_it() -> None:
    layout, reason = layout_for(config_of("llama"), "flex_attention")
    assert layout == "tree", reason
    layout, reason = layout_for(config_of("gpt2"), "flex_attention")
    assert layout == "plain" and "does not support" in reason


@pytest.mark.parametrize(
    ("family", "device", "fields", "flex"),
    [
        ("llama", "cuda", {}, True),
        ("llama", "cpu", {}, False),
        ("llama", "cuda", {"attention_dropout": 0.1}, False),
        ("mistral", "cuda", {"sliding_window": 8}, False),
        ("gpt2", "cuda", {}, False),
    ],
)
def test_flex_attention_is_used_where_it_can_be_trusted(
    tiny: Callable[..., Any], family: str, device: str, fields: dict[str, Any], flex: bool
) -> None:
    model = tiny(family, **fields)
    assert prefer_flex(model, device, 64) == flex
    assert (model.config._attn_implementation == "flex_attention") == flex
