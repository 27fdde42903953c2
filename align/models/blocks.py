"""Attention of trees chain by chain, on the CPU, where no kernel skips what nobody sees.

A dense mask of a row costs its square in memory, and the work of all pairs that it hides. Yet a tree falls into few
chains: the prompt with its first reply, then each further reply, whose tokens see the prompt and what stands before
them in their own. Torch's kernel computes each chain by itself, a few queries at once, so memory is linear in the
length of a row and most hidden pairs are left out. Short chains share a dense mask all the same: a call has its price.

It goes by transformers' name `sdpa`, because models compare that name; masks of any other form are transformers' own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

SDPA = "sdpa"
CHUNK = 256
"""Queries of a chain that are computed at once. More waste pairs that are hidden, fewer pay for more calls."""
CALL = 2**14
"""Pairs of a query and a key that take as long as calling the kernel once more."""


class Chain(NamedTuple):
    """Consecutive tokens of a row, each of which sees those before it."""

    size: int
    before: tuple[tuple[int, int], ...]
    """(i, n): the first n tokens of the chain i are seen by all of them, too."""


def chains_of(until: Tensor) -> list[Chain]:
    """The chains of (R, T) visibilities (see `align.data.tree`), in the order of their tokens, row after row."""
    return _chains(until.numpy().tobytes(), until.shape[-1])


@lru_cache(maxsize=1)  # all layers ask alike
def _chains(until: bytes, width: int) -> list[Chain]:
    made: list[Chain] = []
    for row in np.frombuffer(until, np.int64).reshape(-1, width):
        cuts = np.flatnonzero(row[:-1] <= np.arange(1, width)) + 1  # tokens that do not see their neighbour
        bounds = [0, *cuts.tolist(), width]
        path: list[tuple[int, np.ndarray]] = []  # chains whose beginnings are seen, and their tokens' visibilities
        for begin, end in pairwise(bounds):
            path = [(i, seen) for i, of in path if len(seen := of[of > begin])]
            made.append(Chain(end - begin, tuple((i, len(seen)) for i, seen in path)))
            path.append((len(made) - 1, row[begin:end]))
    return made


def dense_mask(until: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, 1, T, T) additive mask from (R, T) visibility: 0 where q sees k, else the lowest number.

    Floats, because a boolean mask is silently wrong under eager attention, which adds it.
    """
    index = torch.arange(until.shape[1], device=until.device)
    seen = (index[None, :] <= index[:, None]) & (index[:, None] < until[:, None, :])
    mask = torch.zeros(seen.shape, dtype=dtype, device=until.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """(R, T, H, D) attention of (R, H, T, D) queries; (R, 1, 1, T) int64 masks are visibilities of trees."""
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return _attend_trees(module, query, key, value, attention_mask, options)


@torch.compiler.disable()  # it goes by the numbers of the mask
def _attend_trees(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, options: dict[str, Any]
) -> tuple[Tensor, None]:
    rows, heads, width, _ = query.shape
    until = attention_mask[:, 0, 0]
    chains = chains_of(until)
    if options.get("position_bias") is not None or sum(map(_pairs, chains)) > rows * width**2:
        mask = _dense(until.numpy().tobytes(), width, query.dtype)
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    kernel = {"scale": options.get("scaling"), "dropout_p": options.get("dropout", 0.0), "enable_gqa": True}
    q, k, v = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    return _by_chains(q, k, v, chains, kernel).view(rows, width, heads, -1), None


AttentionInterface.register(SDPA, attend)


@lru_cache(maxsize=1)
def _dense(until: bytes, width: int, dtype: torch.dtype) -> Tensor:
    return dense_mask(torch.frombuffer(bytearray(until), dtype=torch.int64).view(-1, width), dtype)


def _pairs(chain: Chain) -> int:
    """Pairs of a query and a key that take as long as the calls for a chain."""
    before, ends = sum(n for _, n in chain.before), [*range(CHUNK, chain.size, CHUNK), chain.size]
    return sum(CALL + (end - begin) * (before + end) for begin, end in pairwise([0, *ends]))


def _by_chains(query: Tensor, key: Tensor, value: Tensor, chains: list[Chain], kernel: dict[str, Any]) -> Tensor:
    """(N, H, D) attention of tokens laid end to end; H may be a multiple of the heads of keys and values."""
    queries, keys, values = (states.split([chain.size for chain in chains]) for states in (query, key, value))
    masks = _masks(-(-len(query) // 1024) * 1024, query.dtype)
    made: list[Tensor] = []
    for i, chain in enumerate(chains):
        k, v = (torch.cat([*(x[j][:n] for j, n in chain.before), x[i]]) for x in (keys, values))
        made += _chain(queries[i], k, v, masks, kernel)
    return torch.cat(made)


def _chain(query: Tensor, key: Tensor, value: Tensor, masks: Tensor, kernel: dict[str, Any]) -> Iterator[Tensor]:
    """(n, H, D) attention of the n tokens of a chain, in parts; all see all keys but the last n, their own."""
    q, k, v = (states.transpose(0, 1)[None] for states in (query, key, value))
    size, before, corner = len(query), len(key) - len(query), masks.shape[1] - CHUNK
    for begin in range(0, size, CHUNK):
        end, free = min(begin + CHUNK, size), before + begin
        mask, seen = masks[: end - begin, corner - free : corner + end - begin], slice(before + end)
        part = scaled_dot_product_attention(q[:, :, begin:end], k[:, :, seen], v[:, :, seen], mask, **kernel)
        yield part[0].transpose(0, 1)


@lru_cache(maxsize=1)
def _masks(free: int, dtype: torch.dtype) -> Tensor:
    """(CHUNK, free + CHUNK) additive mask in whose corner lie those of all chunks: a view of it takes no memory."""
    hidden = torch.full((CHUNK, CHUNK), -torch.inf, dtype=dtype).triu(1)
    return torch.cat([torch.zeros(CHUNK, free, dtype=dtype), hidden], dim=1)
