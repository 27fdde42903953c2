"""Adapters into weights."""

from __future__ import annotations

from typing import Any

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

        policy = load_policy(self._source(ctx), store=ctx.store, device=ctx.machine.device)
        adapters = len(policy.adapters.names)
        error = policy.merge()
        policy.save(ctx.out, ctx.stage)
        return {"adapters": float(adapters), "probe_difference": error}

    def _source(self, ctx: Context) -> Artifact:
        source = ctx[self.policy]
        if not isinstance(source, Artifact) or not (source.path / "adapter").is_dir():
            raise CheckError(f"policy: {self.policy} has full weights already: there is no adapter to merge")
        return source
