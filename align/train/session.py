"""From a training stage's fields to a trained model: what pretrain, sft, reward_model and dpo share around their loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from torch import nn

from align.data.tree import Layout, Tree
from align.machine import Machine
from align.models.attention import layout_for
from align.models.loaded import Loaded
from align.stage import Context
from align.train.fields import Training
from align.train.fit import fit, step_count
from align.train.learner import Learner, accelerator
from align.train.objectives import Objective


def device_of(machine: Machine) -> torch.device:
    """This process's device."""
    return PartialState(cpu=machine.device == "cpu").device


@dataclass(frozen=True)
class Session:
    """A stage that is about to train a loaded model on rows."""

    ctx: Context
    stage: Training
    loaded: Loaded
    trees: Sequence[Tree]
    held_out: Sequence[Tree]
    layout: Layout

    @classmethod
    def of(cls, ctx: Context, stage: Training, loaded: Loaded, trees: Sequence[Tree], held_out: Sequence[Tree]) -> Session:
        """Chooses the layout: trees where the model's tiny twin computes them rightly, else plain rows, and says so."""
        longest = max(tree.length("tree") for tree in (*trees, *held_out))
        config = loaded.model.config
        layout, reason = layout_for(config, config._attn_implementation, longest)
        if layout == "plain":
            ctx.note(reason)
        return cls(ctx, stage, loaded, trees, held_out, layout)

    def train(self, module: nn.Module, objective: Objective) -> dict[str, float]:
        """Trains `module`, which holds the loaded model, and returns the stage's metrics."""
        ctx, stage = self.ctx, self.stage
        if not stage.dropout:
            without_dropout(module)
        if ctx.machine.checkpointing:
            self.loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
            self.loaded.model.enable_input_require_grads()
        accelerate = accelerator(ctx.machine, self.loaded.contract.dtype, ctx.work)
        learner = Learner(
            module,
            stage.optim,
            lr=stage.rate(),
            steps=step_count(len(self.trees), stage.optim.batch_size, stage.epochs),
            accelerator=accelerate,
            machine=ctx.machine,
            layout=self.layout,
            pad=self.loaded.contract.pad,
            seed=ctx.seed_of("train"),
        )
        if ctx.machine.track:
            accelerate.init_trackers(ctx.stage, stage.model_dump(mode="json"))
        metrics = fit(
            ctx, learner, objective, self.trees,
            checkpoint=stage.checkpoint, validation=stage.validation, held_out=self.held_out,
        )  # fmt: skip
        if ctx.machine.track:
            accelerate.end_training()
        return metrics | {"rows": float(len(self.trees)), "steps": float(learner.steps)}


def without_dropout(module: nn.Module) -> None:
    """Turns every dropout of a model off for good: the modules', and the rates that attention layers keep as numbers."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("dropout", "attention_dropout", "dropout_p"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
