"""Adapters into weights."""

from __future__ import annotations

from typing import Any

from align.config import Model
from align.errors import CheckError
from align.stage import Context, PolicyRef, Stage
from align.store import Artifact


class Merge(Stage):
    """Add a policy's adapters to its weights: one plain model, which computes what the stack computed."""

    name = "merge"
    makes = "policy"

    policy: PolicyRef
    """The policy whose adapters to merge."""

    def check(self, ctx: Context) -> dict[str, Any]:
        self._source(ctx)
        return {}

    def run(self, ctx: Context) -> dict[str, float]:
        from align.models.policy import load_policy

        policy = load_policy(self._source(ctx), base=ctx.base, store=ctx.store, device=ctx.machine.device)
        adapters = len(policy.adapters.names)
        error = policy.merge()
        policy.save(ctx.out, ctx.stage)
        return {"adapters": float(adapters), "probe_difference": error}

    def _source(self, ctx: Context) -> Artifact | Model:
        from align.models.loaded import is_adapted, is_quantized

        source = ctx.checkpoint(self.policy)
        if not is_adapted(source, ctx.base):
            raise CheckError(f"policy: {self.policy} has full weights already: there is no adapter to merge")
        if is_quantized(source):
            raise CheckError(f"policy: {self.policy} has 4-bit weights, which can't be merged into without damage")
        return source
