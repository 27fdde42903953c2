"""One number for each reply of many trees, without gradients: log-probs, scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from align.data.tree import Batch, Layout, Tree, collate
from align.train.batching import microbatches


@torch.no_grad()
def per_reply_of(
    measure: Callable[[Batch], Tensor],
    trees: Sequence[Tree],
    *,
    layout: Layout,
    pad: int,
    max_tokens: int,
    device: torch.device,
    dtype: str = "float32",
    progress: Callable[[int], None] = lambda done: None,
) -> list[np.ndarray]:
    """For each tree, in the order given, what `measure` says of its replies: float64 arrays of (replies,).

    measure: a batch of trees to (K,) numbers, one a reply. dtype: of the computation, as training has it: weights that
    train are float32 even where the policy is not. progress: is told how many trees are done.
    """
    found: list[np.ndarray] = [np.empty(0)] * len(trees)
    place = {id(tree): i for i, tree in enumerate(trees)}
    done = 0
    narrow = torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32")
    for part in microbatches(trees, max_tokens, layout):
        with narrow:
            values = measure(collate(part, layout, pad).to(device)).double().cpu().numpy()
        ends = np.cumsum([len(tree.replies) for tree in part])
        for tree, mine in zip(part, np.split(values, ends[:-1]), strict=True):
            found[place[id(tree)]] = mine
        done += len(part)
        progress(done)
    return found
