"""Trained reward models as rewards. They read text with their own tokenizer and template, whatever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from align.config import Data, Model
from align.data.tree import Reply, Tree
from align.errors import DataError
from align.models.heads import Reward as RewardModel
from align.models.heads import load_reward
from align.records import Message, Prompt
from align.rewards.base import Better
from align.stage import Context
from align.train.batching import token_budget
from align.train.measure import per_reply_of

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
        return cls(model, name, token_budget(ctx.machine, model.model.device))

    def __call__(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
        module = self.model.module.eval()
        scores = per_reply_of(
            module, [self._tree(p, r) for p, r in zip(prompts, replies, strict=True)], layout="plain",
            pad=self.model.contract.pad, max_tokens=self.max_tokens, device=self.model.model.device,
        )  # fmt: skip
        return [float(score) for row in scores for score in row]

    def _tree(self, prompt: Prompt, reply: str) -> Tree:
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
        return Tree(prompt.id, np.array(before, np.int32), (Reply(np.array(ids, np.int32)),))
