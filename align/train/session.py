"""From a stage's fields to a trained model: what pretrain, sft, reward_model and dpo share around their loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import nn

from align.data import read
from align.data.chat import Chat
from align.data.load import share_of
from align.data.tokens import trees
from align.data.tree import Layout, Tree
from align.errors import CheckError
from align.machine import Machine
from align.models.attention import layout_for, prefer_flex
from align.models.compiled import compile_layers
from align.models.heads import Reward, load_reward
from align.models.loaded import Loaded
from align.models.policy import Policy, load_policy
from align.records import Record
from align.stage import Context, PolicyRef
from align.train.batching import token_budget
from align.train.fields import Training
from align.train.fit import fit, step_count
from align.train.learner import Learner, accelerator, uses_cpu
from align.train.measure import per_reply_of
from align.train.objectives import Objective
from align.train.online_fields import Online
from align.train.reference import with_reference


def device_of(machine: Machine) -> torch.device:
    """This process's device."""
    return torch.device(PartialState(cpu=uses_cpu(machine)).device or "cpu")


def trainable_policy(ctx: Context, stage: Training | Online, source: PolicyRef) -> Policy:
    """The policy that a stage names, verified and ready to train as its `lora` and `adapter` fields say."""
    return load_policy(ctx.checkpoint(source), train=True, **_options(ctx, stage))


def trainable_reward(ctx: Context, stage: Training, source: PolicyRef) -> Reward:
    """A reward model on the backbone of the policy that a stage names, likewise."""
    return load_reward(ctx.checkpoint(source), train=True, **_options(ctx, stage))


def _options(ctx: Context, stage: Training | Online) -> dict[str, Any]:
    return {
        "base": ctx.base,
        "store": ctx.store,
        "device": str(device_of(ctx.machine)),
        "lora": stage.lora,
        "adapter": stage.adapter,
        "seed": ctx.seed_of("adapter"),
    }


def records_for(ctx: Context, stage: Training) -> tuple[list[Record], list[Record]]:
    """The records to train on and those held out for validation, which share no prompt where one file gives both."""
    records = read(ctx, stage.data, stage.reads)
    if stage.validation is None:
        return records, []
    if stage.validation.data is not None:
        return records, read(ctx, stage.validation.data, stage.reads)
    seed, share = ctx.seed_of("validation"), stage.validation.share
    kept = [record for record in records if share_of(record, seed) >= share]
    held_out = [record for record in records if share_of(record, seed) < share]
    if not kept or not held_out:
        raise CheckError(f"validation.share: {share} of {len(records)} rows leaves nothing on one of the two sides")
    return kept, held_out


def trees_for(ctx: Context, stage: Training, chat: Chat, records: Sequence[Record]) -> list[Tree]:
    """The records as trees of tokens; says what was left out, and raises where that is too much."""
    made, account = trees(
        records, chat, stage.max_length,
        truncate=stage.too_long == "truncate", limit=stage.max_too_long, store=ctx.store,
    )  # fmt: skip
    if account.reasons or account.truncated or account.default_system:
        ctx.note(str(account))
    return made


@dataclass(frozen=True)
class Session:
    """A stage that is about to train a loaded model on rows."""

    ctx: Context
    stage: Training
    loaded: Loaded
    trees: Sequence[Tree]
    held_out: Sequence[Tree]
    test: Sequence[Tree]
    layout: Layout

    @classmethod
    def of(cls, ctx: Context, stage: Training, loaded: Loaded, test: Sequence[Record] = ()) -> Session:
        """Reads the stage's rows and chooses the layout: trees where the model can be trusted with them.

        test: further records, for the stage to measure the result on.
        """
        trees, held_out, tests = [
            trees_for(ctx, stage, loaded.chat, records) if records else []
            for records in (*records_for(ctx, stage), test)
        ]  # fmt: skip
        return cls.over(ctx, stage, loaded, trees, held_out, tests)

    @classmethod
    def over(
        cls,
        ctx: Context,
        stage: Training,
        loaded: Loaded,
        trees: Sequence[Tree],
        held_out: Sequence[Tree] = (),
        test: Sequence[Tree] = (),
    ) -> Session:
        """A session on these trees, in a layout and with an attention that the model can be trusted with."""
        longest = max(tree.length("tree") for tree in (*trees, *held_out, *test))
        if ctx.machine.attention == "flex" and any(len(tree.replies) > 1 for tree in trees):
            prefer_flex(loaded.model, loaded.model.device, longest)
        config = loaded.model.config
        layout, reason = layout_for(config, config._attn_implementation, longest)
        if layout == "plain":
            ctx.note(reason)
        if getattr(config, "output_router_logits", False):
            ctx.note("the router's balancing loss of this mixture of experts is not computed", "warning")
        return cls(ctx, stage, loaded, trees, held_out, test, layout)

    def with_reference(self, policy: Policy, key: str) -> Session:
        """The same session, with the policy's log-probs from before its first update among every tree's numbers."""
        without_dropout(policy.model)
        add = partial(with_reference, self.ctx, policy, key, layout=self.layout, device=device_of(self.ctx.machine))
        return replace(self, trees=add(self.trees), held_out=add(self.held_out) if self.held_out else [])

    def scores(self, trees: Sequence[Tree]) -> np.ndarray:
        """(trees, replies) scores of a reward model."""
        assert isinstance(self.loaded, Reward)
        device = device_of(self.ctx.machine)
        return np.stack(per_reply_of(
            self.loaded.module.eval(), trees, layout=self.layout, pad=self.loaded.contract.pad,
            max_tokens=token_budget(self.ctx.machine, device), device=device, dtype=self.loaded.contract.dtype,
        ))  # fmt: skip

    def save(self) -> None:
        """Writes the model into the artifact, on one rank."""
        if PartialState().is_main_process:
            self.loaded.save(self.ctx.out, self.ctx.stage)

    def train(self, module: nn.Module, objective: Objective) -> dict[str, float]:
        """Trains `module`, which holds the loaded model, and returns the stage's metrics."""
        ctx, stage = self.ctx, self.stage
        if not stage.dropout:
            without_dropout(module)
        if ctx.machine.checkpointing:
            self.loaded.adapters.save_memory()
        if ctx.machine.compile and not compile_layers(self.loaded.model):
            ctx.note(f"machine.compile: transformers names no layers of {type(self.loaded.model).__name__}", "warning")
        accelerate = accelerator(ctx.machine, self.loaded.contract.dtype, ctx.store.inside / "tracking")
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
            fields = stage.model_dump_json(exclude_defaults=True)
            accelerate.init_trackers(f"{ctx.stage}-{ctx.key[:8]}", {"fields": fields})
        try:
            metrics = fit(
                ctx, learner, objective, self.trees,
                checkpoint=stage.checkpoint, validation=stage.validation, held_out=self.held_out,
            )  # fmt: skip
        finally:
            if ctx.machine.track:
                accelerate.end_training()
        return metrics | {"rows": float(len(self.trees)), "steps": float(learner.steps)}


def without_dropout(module: nn.Module) -> None:
    """Turns every dropout of a model off for good, also the rates that attention layers keep as numbers."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name, value in vars(part).items():
            if "drop" in name and isinstance(value, float):
                setattr(part, name, 0.0)
