"""One more token for each row of a batch, by a model's own layers but without what its forward makes ready for all
cases.

On a CPU a decoding step of a small model is mostly not arithmetic: masks are built and converted in each layer, and
rows that begin late are read from where the earliest begins. Blocks of the form that Llama has (Qwen, Mistral, SmolLM
and most others) need little of that. Their projections, norms, feed-forward and rotary embeddings are called as they
are, adapters and all; what lies between is written here. There is no list of architectures: who uses this compares it
with the model's own forward first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from align.models.blocks import SDPA

MODEL, BACKBONE = {"model", "lm_head"}, {"embed_tokens", "layers", "norm", "rotary_emb"}
BLOCK = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION, NORMS = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"q_norm", "k_norm"}
SIZES = ("head_dim", "num_key_value_groups", "scaling")
CALL = 2**16
"""Numbers of the cache that take as long to read as calling the attention's kernel once more."""


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring rows of a batch that begin at about the same column of the cache."""

    rows: slice
    start: int
    """The first column that one of them has a token in."""
    mask: Tensor | None
    """(rows, 1, 1, columns from `start` on) to be added to scores; None where all rows begin at `start`."""


def spans_of(starts: Sequence[int], columns: int, size: int) -> list[Span]:
    """Cuts rows that begin at these columns where reading what others have before them costs more than a call.

    columns: of the cache, as many as it may come to have. size: numbers that it holds of a row and a column.
    """
    made, first = [], 0
    for row in range(1, len(starts) + 1):
        seen = starts[first : row + 1]
        if row == len(starts) or (sum(seen) - len(seen) * min(seen)) * size > CALL:
            made.append(_span(starts, first, row, columns))
            first = row
    return made


def _span(starts: Sequence[int], first: int, end: int, columns: int) -> Span:
    begins = torch.tensor(starts[first:end])
    start = int(begins.min())
    if bool((begins == start).all()):
        return Span(slice(first, end), start, None)
    hidden = torch.arange(start, columns) < begins[:, None]
    return Span(slice(first, end), start, torch.zeros(hidden.shape).masked_fill_(hidden, -torch.inf)[:, None, None])


class Decoder:
    """Decodes with a model's layers; `Decoder.of` says for which."""

    def __init__(self, model: Any):
        self.model, self.backbone = model, model.model
        attention = self.backbone.layers[0].self_attn
        self.head, self.group = attention.head_dim, attention.num_key_value_groups

    @classmethod
    def of(cls, model: Any) -> Decoder | None:
        """The decoder of a model whose modules have the names that Llama's have, in float32 on a CPU; else None.

        None too where a module that would be passed by has hooks.
        """
        able = model.device.type == "cpu" and model.dtype == torch.float32 and model.config._attn_implementation == SDPA
        if not able or _names(model) != MODEL or _names(model.model) != BACKBONE:
            return None
        blocks = list(model.model.layers)
        if any(_names(block) != BLOCK for block in blocks):
            return None
        attentions = [block.self_attn for block in blocks]
        if any(
            _names(module) - NORMS != ATTENTION or not all(hasattr(module, name) for name in SIZES)
            for module in attentions
        ):
            return None
        passed_by = [model, model.model, *blocks, *attentions]
        return None if any(module._forward_hooks or module._forward_pre_hooks for module in passed_by) else cls(model)

    def __call__(self, tokens: Tensor, positions: Tensor, caches: Sequence[Any], spans: Sequence[Span]) -> Tensor:
        """(B, V) logits of what follows (B,) tokens, whose keys and values are added to the caches of the layers."""
        hidden = self.backbone.embed_tokens(tokens[:, None])  # (B, 1, hidden)
        turn = [part[:, :, None] for part in self.backbone.rotary_emb(hidden, positions[:, None])]
        for block, cache in zip(self.backbone.layers, caches, strict=True):
            hidden = hidden + self._attended(block.self_attn, block.input_layernorm(hidden), turn, cache, spans)
            hidden = hidden + block.mlp(block.post_attention_layernorm(hidden))
        return self.model.lm_head(self.backbone.norm(hidden))[:, 0]

    def _attended(self, module: Any, hidden: Tensor, turn: list[Tensor], cache: Any, spans: Sequence[Span]) -> Tensor:
        query, key, value = (
            project(hidden).unflatten(-1, (-1, self.head)) for project in (module.q_proj, module.k_proj, module.v_proj)
        )  # (B, 1, heads, head)
        if hasattr(module, "q_norm"):
            query, key = module.q_norm(query), module.k_norm(key)
        both = _turned(torch.cat((query, key), dim=2), *turn)
        query, key = both.split((query.shape[2], key.shape[2]), dim=2)
        keys, values = cache.update(key.transpose(1, 2), value.transpose(1, 2))
        query = query[:, 0].unflatten(1, (-1, self.group))  # the heads that share keys are queries of one head
        width = keys.shape[2]
        made = [
            scaled_dot_product_attention(
                query[span.rows], keys[span.rows, :, span.start :], values[span.rows, :, span.start :],
                None if span.mask is None else span.mask[..., : width - span.start], scale=module.scaling,
            )
            for span in spans
        ]  # fmt: skip
        return module.o_proj((torch.cat(made) if len(made) > 1 else made[0]).flatten(1)[:, None])


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in halves (arXiv:2104.09864), as Llama's weights have it."""
    one, other = heads.chunk(2, dim=-1)
    return torch.addcmul(heads * cos, torch.cat((-other, one), dim=-1), sin)


def _names(module: Any) -> set[str]:
    return {name for name, _ in module.named_children()}
