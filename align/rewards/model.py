"""Trained reward models as rewards. They read text with their own tokenizer and template, whatever wrote it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from align.config import Model
from align.data.tree import Reply, Tree
from align.models.heads import Reward as RewardModel
from align.models.heads import load_reward
from align.models.preview import context_of
from align.models.shared import Lodger
from align.records import Prompt
from align.rewards.base import Better
from align.stage import Context
from align.train.batching import token_budget
from align.train.measure import per_reply_of

if TYPE_CHECKING:
    from align.store import Artifact


@dataclass(frozen=True)
class TrainedReward:
    """A reward model's score of each reply, read at its end; NaN where prompt and reply exceed its context."""

    model: RewardModel | Lodger
    name: str
    max_tokens: int
    """Tokens of one micro-batch."""
    note: Callable[[str], None]
    """Tells people what it could not read."""
    better: Better = "higher"

    @classmethod
    def load(cls, source: Artifact | Model, ctx: Context, name: str) -> Self:
        model = load_reward(source, base=ctx.base, store=ctx.store, device=ctx.machine.device)
        return cls(model, name, token_budget(ctx.machine, model.model.device), ctx.note)

    def __call__(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
        module = self.model.module.eval()
        trees = [self._tree(p, r) for p, r in zip(prompts, replies, strict=True)]
        context = context_of(self.model.model) or math.inf
        fits = [tree.length("plain") <= context for tree in trees]
        if not all(fits):
            self.note(f"{self.name} reads at most {context} tokens: {fits.count(False)} of {len(fits)} replies, with "
                      f"their prompts, have more and get no score, such as one to prompt "
                      f"{trees[fits.index(False)].id}")  # fmt: skip
        scores = per_reply_of(
            module, [tree for tree, fit in zip(trees, fits, strict=True) if fit], layout="plain",
            pad=self.model.contract.pad, max_tokens=self.max_tokens, device=self.model.model.device,
        )  # fmt: skip
        found = iter(scores)
        return [float(next(found)[0]) if fit else math.nan for fit in fits]

    def _tree(self, prompt: Prompt, reply: str) -> Tree:
        chat = self.model.chat
        before = chat.prompt(prompt.prompt)
        ids = chat.heard(prompt.prompt, reply) if reply.strip() else [self.model.contract.stop[0]]
        return Tree(prompt.id, np.array(before, np.int32), (Reply(np.array(ids, np.int32)),))
