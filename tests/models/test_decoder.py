"""Decoding with a model's own layers: the numbers of its forward pass, for fewer columns, or not at all."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from align.models.decoder import CALL, Decoder, spans_of

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 2048, "initializer_range": 0.3,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def model(family="llama", **sizes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SIZES | sizes))
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def test_rows_are_cut_where_reading_padding_costs_more_than_a_call():
    size = CALL // 100  # a hundred columns of one row cost as much as a call
    spans = spans_of([0, 90, 100, 300, 301], columns=400, size=size)
    assert [(span.rows, span.start) for span in spans] == [(slice(0, 2), 0), (slice(2, 3), 100), (slice(3, 5), 300)]
    first, second, third = (span.mask for span in spans)
    assert first is not None and first.shape == (2, 1, 1, 400)
    assert (first[:, 0, 0] == -torch.inf).sum(1).tolist() == [0, 90]
    assert second is None, "one row has nothing to hide"
    assert third is not None and third.shape == (2, 1, 1, 100)
    assert (third[:, 0, 0] == -torch.inf).nonzero().tolist() == [[1, 0]]
    assert spans_of([7] * 64, columns=100, size=10**9)[0].mask is None


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("llama", {}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}}),
        ("llama", {"attention_bias": True, "head_dim": 20}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16}),
        ("mistral", {"sliding_window": None}),
    ],
)
@torch.no_grad()
def test_next_logits_are_those_of_the_models_forward(family, sizes):
    made = model(family, **sizes)
    decoder = Decoder.of(made)
    assert decoder is not None
    starts, width = [0, 3, 650], 700  # beyond a block of the kernel, so that one row sees nothing in a whole block
    ids = torch.randint(3, 64, (3, width + 2), generator=torch.Generator().manual_seed(0))
    cache, positions = DynamicCache(config=made.config), torch.arange(width) - torch.tensor(starts)[:, None]
    mask = (positions >= 0).long()
    made(ids[:, :width], attention_mask=mask, position_ids=positions.clamp(min=0), past_key_values=cache)
    for size in (1, 10**6):  # in one span, and each row in its own
        spans = spans_of(starts, width + 2, size)
        assert len(spans) == (1 if size == 1 else 3)
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, :width], layer.values[:, :, :width]
        for step in range(2):
            logits = decoder(ids[:, width + step], positions[:, -1] + 1 + step, cache.layers, spans)
            for row, start in enumerate(starts):
                alone = made(ids[row, None, start : width + step + 1]).logits[0, -1]
                assert (logits[row].log_softmax(-1) - alone.log_softmax(-1)).abs().max() < 1e-4


def test_other_forms_have_no_decoder():
    assert Decoder.of(model("gpt2")) is None
    assert Decoder.of(model("gemma2", head_dim=8)) is None
    assert Decoder.of(model().bfloat16()) is None
    eager = model()
    eager.set_attn_implementation("eager")
    assert Decoder.of(eager) is None
    hooked = model()
    hooked.model.layers[1].register_forward_hook(lambda *_: None)
    assert Decoder.of(hooked) is None
