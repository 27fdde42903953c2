"""From scores of replies to advantages of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from align.data.tree import Reply, Tree
from align.losses import advantage as advantages
from align.losses import divergence
from align.train.online_fields import Advantage, Gae, Kl


@dataclass(frozen=True)
class Credit:
    """How the tokens of replies share in what the replies earned."""

    advantage: Advantage
    gae: Gae
    kl: Kl
    whiten_rewards: bool
    whiten_advantages: bool

    def assign(self, trees: Sequence[Tree], scores: np.ndarray, coefficient: float) -> list[Tree]:
        """The same trees; each reply's numbers are what `proximal_policy` needs.

        Replies carry `logp` and `reference`, for gae also `value`. scores: (P, G), earned at the reply's last token.
        coefficient: what a nat of KL costs.
        """
        replies = [reply for tree in trees for reply in tree.replies]
        mask = _mask(replies)
        rewards = self.rewards(replies, mask, torch.from_numpy(scores.reshape(-1)), coefficient)
        made: dict[str, Tensor] = {}
        if self.advantage == "gae":
            values = _padded(replies, "value", mask)
            if self.whiten_rewards:
                rewards = advantages.whitened(rewards, mask, centre=False)
            made["advantage"] = advantages.gae(rewards, values, mask, self.gae.gamma, self.gae.decay)
            made["return"] = made["advantage"] + values
        elif self.advantage == "reinforce++":
            made["advantage"] = advantages.returns_to_go(rewards, mask, self.gae.gamma)
        else:
            by_group = advantages.rloo if self.advantage == "rloo" else advantages.grpo
            whole = by_group(rewards.sum(1).view(scores.shape)).view(-1, 1)
            made["advantage"] = whole.expand_as(rewards).where(mask, 0)
        if self.whiten_advantages:
            made["advantage"] = advantages.whitened(made["advantage"], mask)
        return self._numbered(trees, {name: iter(rows.float().numpy()) for name, rows in made.items()})

    def rewards(self, replies: Sequence[Reply], mask: Tensor, scores: Tensor, coefficient: float) -> Tensor:
        """(K, T) rewards: the score (K,) at each reply's last sampled token, the price of KL at every one."""
        price = torch.zeros(mask.shape, dtype=torch.double)
        if self.kl.where == "reward":
            logp, reference = (_padded(replies, name, mask) for name in ("logp", "reference"))
            price = coefficient * divergence.ESTIMATORS[self.kl.estimator](logp, reference)
        return advantages.earned(scores.double(), price, mask)

    def _numbered(self, trees: Sequence[Tree], columns: dict) -> list[Tree]:
        kept = ["logp"] + ["reference"] * (self.kl.where == "loss") + ["value"] * (self.advantage == "gae")

        def numbered(reply: Reply) -> Reply:
            new = {name: next(rows)[: len(reply.ids)] for name, rows in columns.items()}
            return replace(reply, numbers={name: reply.numbers[name] for name in kept} | new)

        return [replace(tree, replies=tuple(map(numbered, tree.replies))) for tree in trees]


@dataclass(frozen=True)
class Moments:
    """Mean and variance of all numbers seen so far."""

    count: int = 0
    mean: float = 0.0
    deviations: float = 0.0
    """The sum of squared differences from the mean."""

    def joined(self, values: np.ndarray) -> Moments:
        """With further numbers: the update of Chan, Golub and LeVeque (1979), which no large mean can spoil."""
        count, mean = self.count + values.size, float(values.mean())
        shift = mean - self.mean
        between = shift**2 * self.count * values.size / count
        deviations = self.deviations + float(((values - mean) ** 2).sum()) + between
        return Moments(count, self.mean + shift * values.size / count, deviations)

    def normal(self, values: np.ndarray) -> np.ndarray:
        """The numbers at mean 0 and variance 1."""
        return (values - self.mean) / np.sqrt(self.deviations / self.count + 1e-8)


def _mask(replies: Sequence[Reply]) -> Tensor:
    """(K, T): True on a reply's tokens. By their number alone: a stop id inside a reply or a pad id mean nothing."""
    counts = torch.tensor([len(reply.ids) for reply in replies])
    return torch.arange(int(counts.max()))[None] < counts[:, None]


def _padded(replies: Sequence[Reply], name: str, mask: Tensor) -> Tensor:
    """(K, T) float64: a number of every token, 0 after a reply's end."""
    rows = torch.zeros(mask.shape, dtype=torch.double)
    rows[mask] = torch.from_numpy(np.concatenate([reply.numbers[name] for reply in replies])).double()
    return rows
