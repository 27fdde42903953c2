"""Log-probs of the reference, computed once and kept in the store.

The reference is the policy as the stage found it, inherited adapters and all. Nothing has been trained yet when its
numbers are needed, so the policy itself computes them: no second model, and no adapter that could be switched off too
far. They are keyed by the model and by the very tokens they belong to, so that no change of tokenizer, template, length
or data can bring back stale ones. Eight trees are computed again all the same: what is stored must be what the policy
that is about to train says now, or log-ratios would not be 0 at step 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from align.data.tree import Layout, Tree
from align.errors import TrainingError
from align.losses.reduce import per_reply
from align.models.logprobs import LanguageModel
from align.models.policy import Policy
from align.stage import Context
from align.train.batching import token_budget
from align.train.measure import per_reply_of

PROBES = 8
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 5e-3}
"""Largest mean difference of a reply's log-prob, in nats per token, that batching and kernels explain."""


def with_reference(
    ctx: Context,
    policy: Policy,
    key: str,
    trees: Sequence[Tree],
    *,
    layout: Layout,
    device: torch.device,
    names: tuple[str, ...] = ("reference_chosen", "reference_rejected"),
) -> list[Tree]:
    """The same trees with the reference's summed log-prob of each reply among their numbers, in nats; ranks share the
    work.

    policy: the one that will train, before its first update. key: the content key of what it was loaded from. Raises
    TrainingError if eight trees do not come out as stored.
    """
    module = LanguageModel(policy.model).eval()
    measure = partial(
        per_reply_of, lambda batch: per_reply(module(batch).logp.double(), batch.owner, len(batch.last)),
        layout=layout, pad=policy.contract.pad, max_tokens=token_budget(ctx.machine, device),
        device=device, dtype=policy.contract.dtype,
    )  # fmt: skip

    def tell(done: int) -> None:
        ctx.emit("progress", what="reference log-probs", total=len(trees), done=min(done * ranks, len(trees)))

    def make(folder: Path) -> None:
        np.save(folder / "logps.npy", np.stack(shares or measure(trees, progress=tell)))

    state, name = PartialState(), _key(key, policy, trees)
    rank, ranks, shares = state.process_index, state.num_processes, list[np.ndarray]()
    if ranks > 1 and not gather_object([ctx.store.holds("reference", name)])[0]:
        mine = measure(trees[rank::ranks], progress=tell)
        numbered = gather_object([(i * ranks + rank, values) for i, values in enumerate(mine)])
        shares = [values for _, values in sorted(numbered, key=lambda pair: pair[0])]
    with state.main_process_first():
        stored = np.load(ctx.store.cached("reference", name, make) / "logps.npy")
    probes = [int(i) for i in np.linspace(0, len(trees) - 1, min(PROBES, len(trees)))]
    module.train()  # as it will be in the first update, dropout and all
    for i, now in zip(probes, measure([trees[i] for i in probes]), strict=True):
        _compare(trees[i], stored[i], now, TOLERANCE[policy.contract.dtype])
    return [
        replace(tree, numbers=tree.numbers | dict(zip(names, map(float, values), strict=True)))
        for tree, values in zip(trees, stored, strict=True)
    ]


def _key(key: str, policy: Policy, trees: Sequence[Tree]) -> str:
    """Names the numbers by all that they depend on: the model, how it is stacked, its precision, and the tokens."""
    contract, stack = policy.contract, (policy.own, policy.adapters.names)
    digest = hashlib.sha256(f"{key} {contract.dtype} {contract.quantize} {stack}".encode())
    for tree in trees:
        for ids in (tree.prompt, *(reply.ids for reply in tree.replies)):
            digest.update(len(ids).to_bytes(4, "big") + np.ascontiguousarray(ids, np.int32).tobytes())
        for reply in tree.replies:
            digest.update(b"all" if reply.scored is None else np.packbits(reply.scored).tobytes())
    return digest.hexdigest()[:24]


def _compare(tree: Tree, stored: np.ndarray, now: np.ndarray, tolerance: float) -> None:
    tokens = np.array([len(reply.ids) for reply in tree.replies])
    error = float(np.max(np.abs(stored - now) / np.maximum(tokens, 1)))
    if not error <= tolerance:
        raise TrainingError(
            f"the reference is not the policy that begins to train: for row {tree.id} the stored log-prob differs by "
            f"{error:.2g} nats per token (tolerance {tolerance:g})"
        )
