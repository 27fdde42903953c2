"""What a training stage checks before anything computes: its rows become trees, and its needs are counted."""

from __future__ import annotations

from typing import Any

from align.data.tree import Tree
from align.errors import CheckError
from align.models.heads import check_scorable
from align.models.loaded import check_handover
from align.models.preview import Preview
from align.stage import Context, PolicyRef
from align.train.fields import Training
from align.train.fit import step_count
from align.train.session import records_for, trees_for


def preflight(ctx: Context, stage: Training, source: PolicyRef) -> tuple[dict[str, Any], list[Tree]]:
    """Figures for people, and the trees that the stage will train and validate on.

    Raises AlignError for whatever would make the result untrustworthy: bad rows, templates that mask wrongly, too many
    rows too long, adapters that don't fit, fewer rows than a batch.
    """
    if source.name in ctx.inputs:
        check_handover(ctx.checkpoint(source), stage.lora, stage.adapter, ctx.base)
    if not ctx.knows(source):
        records_for(ctx, stage)  # the rest waits for a policy that is yet to be made
    return figures_of(ctx, stage, stage.preview(ctx), adapted=stage.adapter == "continue")


def figures_of(
    ctx: Context, stage: Training, seen: Preview, adapted: bool = False
) -> tuple[dict[str, Any], list[Tree]]:
    """The same for a model that has been looked at already."""
    limit = getattr(seen.model.config.get_text_config(), "max_position_embeddings", None)
    if limit and stage.max_length > limit:
        raise CheckError(f"max_length: {stage.max_length} is more than the model's {limit} positions; set it to that")
    if stage.makes == "reward":
        check_scorable(seen.model.config)
    if seen.contract.dtype == "float16":
        raise CheckError("float16 cannot hold the gradients of a summed loss; load the model in bfloat16 or float32")
    records, held_out = records_for(ctx, stage)
    trees = trees_for(ctx, stage, seen.chat, records)
    others = trees_for(ctx, stage, seen.chat, held_out) if held_out else []
    best = stage.validation is not None and stage.validation.keep == "best"
    steps = step_count(len(trees), stage.optim.batch_size, stage.epochs)
    return {
        "rows": len(trees),
        "held out": len(others),
        "tokens per epoch": sum(tree.length() for tree in trees),
        "steps": steps,
        "parameters": seen.parameters,
        "memory bytes": seen.training_bytes(stage.lora, adapted),
        "bytes": seen.saved_bytes(stage.lora, adapted, stage.checkpoint.keep + 1, best=best),
    }, [*trees, *others]
