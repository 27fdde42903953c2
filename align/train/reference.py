"""Log-probs of the reference, computed once and kept in the store.

The reference is the policy as it was when the stage began. Its numbers are keyed by the model and by the very tokens
they belong to, so that no change of tokenizer, template, length or data can bring back stale ones; eight trees are
computed again all the same, by the policy that is about to train, which proves both that the cache is right and that
the reference is the parent (log-ratios are 0 at step 0).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from align.data.tree import Layout, Tree, collate
from align.errors import TrainingError
from align.losses.reduce import lengths, per_reply
from align.models.logprobs import LanguageModel
from align.stage import Context
from align.train.batching import microbatches

PROBES = 8
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 5e-3}
"""Largest mean difference of a reply's log-prob, in nats per token, that batching and kernels explain."""


def summed_logps(
    module: nn.Module, trees: Sequence[Tree], *, layout: Layout, pad: int, max_tokens: int, device: torch.device, ctx: Context | None = None
) -> list[np.ndarray]:
    """For each tree the log-probs of its replies, summed over scored tokens, in nats: float64 arrays of (replies,)."""
    order = {id(tree): i for i, tree in enumerate(trees)}
    found: list[np.ndarray] = [np.empty(0)] * len(trees)
    done = 0
    module.eval()
    with torch.no_grad():
        for part in microbatches(trees, max_tokens, layout):
            batch = collate(part, layout, pad).to(device)
            sums = per_reply(module(batch).logp.double(), batch.owner, len(batch.last)).cpu().numpy()
            splits = np.cumsum([len(tree.replies) for tree in part])[:-1]
            for tree, values in zip(part, np.split(sums, splits), strict=True):
                found[order[id(tree)]] = values
            done += len(part)
            if ctx:
                ctx.emit("progress", what="reference log-probs", done=done, total=len(trees))
    return found
