"""Trained reward models as rewards. They read text with their own tokenizer and template, whatever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from align.config import Data, Model
from align.data.tree import Reply, Tree, collate
from align.errors import DataError
from align.models.heads import Reward as RewardModel
from align.models.heads import load_reward
from align.records import Message, Prompt
from align.rewards.base import Better
from align.stage import Context
from align.train.batching import microbatches

if TYPE_CHECKING:
    from align.store import Artifact


@dataclass(frozen=True)
class TrainedReward:
    """A reward model's score of each reply, read at its end."""

    model: RewardModel
    name: str
    max_tokens: int
    """Tokens of one micro-batch."""
    better: Better = "higher"

    @classmethod
    def load(cls, source: Artifact | Model | Data, ctx: Context, name: str) -> Self:
        if isinstance(source, Data):
            raise DataError(f"stages.{ctx.stage}: {name!r} is a dataset, not a reward model")
        model = load_reward(source, base=ctx.base, store=ctx.store, device=ctx.machine.device)
        return cls(model, name, ctx.machine.max_tokens)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
        trees = [self._tree(i, p, r) for i, (p, r) in enumerate(zip(prompts, replies, strict=True))]
        found = [0.0] * len(trees)
        self.model.model.eval()
        for part in microbatches(trees, self.max_tokens, "plain"):
            batch = collate(part, "plain", self.model.contract.pad).to(self.model.model.device)
            for tree, score in zip(part, self.model.module(batch).tolist(), strict=True):
                found[int(tree.id)] = score
        return found

    def _tree(self, index: int, prompt: Prompt, reply: str) -> Tree:
        chat = self.model.chat
        before = chat.prompt(prompt.prompt)
        said = (Message("assistant", reply),)
        ids = chat.reply(prompt.prompt, said) if reply.strip() else [self.model.contract.stop[0]]
        context = getattr(self.model.model.config, "max_position_embeddings", None)
        if context is not None and len(before) + len(ids) > context:
            raise DataError(
                f"reward {self.name!r} reads at most {context} tokens, and prompt {prompt.id} with its reply has "
                f"{len(before) + len(ids)}; sample fewer tokens or leave out long prompts"
            )
        return Tree(str(index), np.array(before, np.int32), (Reply(np.array(ids, np.int32)),))
