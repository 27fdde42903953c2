"""From a reference of a recipe to whoever writes."""

from __future__ import annotations

from align.config import Endpoint
from align.generate.base import Generator
from align.stage import Context, Reference


def load_generator(ctx: Context, reference: Reference) -> Generator:
    """The generator that a reference stands for, its model loaded, or its server ready to be asked."""
    source = ctx[reference]
    if isinstance(source, Endpoint):
        from align.generate.endpoint import EndpointGenerator

        return EndpointGenerator(source, ctx.store, reference.name, ctx.note)
    from align.generate.hf import HFGenerator
    from align.models.policy import load_policy
    from align.train.batching import token_budget

    policy = load_policy(ctx.checkpoint(reference), base=ctx.base, store=ctx.store, device=ctx.machine.device)
    return HFGenerator(policy, ctx.machine.sample_batch, token_budget(ctx.machine, policy.model.device))
