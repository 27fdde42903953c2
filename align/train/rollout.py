"""Rollouts: a policy answers prompts, rewards score the answers, and the models that train say what they think of each
token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isnan

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from align.config import Sampling
from align.data.tree import Batch, Layout, Reply, Tree
from align.errors import CheckError, TrainingError
from align.generate.base import Completion, Generator, Progress
from align.generate.tokens import DRIFT
from align.models.logprobs import LanguageModel
from align.models.policy import Policy
from align.records import Prompt, Sample
from align.rewards.base import Reward, is_rule
from align.train.measure import with_token_numbers

SILENT = 0.1
"""The share of replies that rewards may say nothing about."""


@dataclass(frozen=True)
class Weighed:
    """One reward of a sum; one of weight 0 is only watched."""

    reward: Reward
    weight: float = 1.0
    clip: tuple[float, float] | None = None

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """What scores add to the sum: 0 where the reward says nothing (NaN)."""
        low, high = self.clip or (-np.inf, np.inf)
        sign = -1.0 if self.reward.better == "lower" else 1.0
        return self.weight * sign * np.nan_to_num(np.clip(scores, low, high), nan=0.0)


@dataclass(frozen=True)
class Turn:
    """A prompt and what became of it."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    parts: dict[str, tuple[float, ...]]
    """Each reward's score of each reply, NaN where it says nothing."""
    scores: tuple[float, ...]
    """The weighed sum, less what a missing end costs: what each reply earned."""
    tree: Tree
    """The prompt with its replies; each token's log-prob by the sampler (`sampled`), by the policy (`logp`) and by the
    reference, the entropy of what it was drawn from, and what a critic expected (`value`)."""

    def samples(self, policy: str) -> list[Sample]:
        """The replies as records."""
        return [
            Sample(
                self.prompt.id, self.prompt.prompt, c.text, policy, index=c.index, finish=c.finish, tokens=len(c.ids),
                logp=sum(c.logps), extra=self.prompt.extra,
                scores={n: scores[i] for n, scores in self.parts.items() if not isnan(scores[i])},
            )
            for i, c in enumerate(self.completions)
        ]  # fmt: skip


@dataclass(frozen=True)
class Player:
    """A policy in training as one who answers and is scored. Ranks share the prompts and all see every result."""

    policy: Policy
    module: nn.Module
    """An `ActorCritic` around the policy."""
    generator: Generator
    rewards: Sequence[Weighed]
    sampling: Sampling
    missing_eos_penalty: float
    accelerator: Accelerator
    layout: Layout
    max_tokens: int
    """Of one micro-batch."""

    def play(self, prompts: Sequence[Prompt], seed: int, n: int, progress: Progress | None = None) -> list[Turn]:
        """One turn a prompt, with n replies, in the order of the prompts.

        Replies depend on the weights, the seed and their own prompt alone. Raises TrainingError where sampling and
        training disagree about log-probs.
        """
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        mine = self._turns(prompts[rank::ranks], seed, n, progress)
        if ranks == 1:
            return self._heard(mine)
        numbered = gather_object([(i * ranks + rank, turn) for i, turn in enumerate(mine)])
        return self._heard([turn for _, turn in sorted(numbered, key=lambda pair: pair[0])])

    def _turns(self, prompts: Sequence[Prompt], seed: int, n: int, progress: Progress | None) -> list[Turn]:
        if not prompts:
            return []
        self.module.eval()  # also for rewards that live on its backbone
        sampling = self.sampling.model_copy(update={"n": n})
        with self.accelerator.autocast():
            made = self.generator.generate([p.prompt for p in prompts], sampling, seed, progress)
        groups = [tuple(made[i : i + n]) for i in range(0, len(made), n)]
        parts = self._scored(prompts, made, n)
        sums = sum(part(scores) for part, scores in zip(self.rewards, parts.values(), strict=True))
        unfinished = np.array([[c.finish == "length" for c in group] for group in groups])
        totals = sums - self.missing_eos_penalty * unfinished
        trees = self._measured([self._tree(p, g) for p, g in zip(prompts, groups, strict=True)])
        return [
            Turn(
                prompt, groups[i], {name: tuple(scores[i].tolist()) for name, scores in parts.items()},
                tuple(totals[i].tolist()), trees[i],
            )
            for i, prompt in enumerate(prompts)
        ]  # fmt: skip

    def _scored(self, prompts: Sequence[Prompt], made: Sequence[Completion], n: int) -> dict[str, np.ndarray]:
        """(P, n) scores by each reward, which reads text, with a tokenizer of its own if it has one."""
        asked, texts = [prompts[c.prompt] for c in made], [c.text for c in made]
        return {w.reward.name: np.array(w.reward(asked, texts), float).reshape(-1, n) for w in self.rewards}

    def _heard(self, turns: list[Turn]) -> list[Turn]:
        """The turns; a reply that no reward says anything about, as where a judge's answer can't be read, earns what
        the others to its prompt did, or else what all did, so that it teaches nothing.

        Raises CheckError where there are many, and where only rules are asked: those are silent about a prompt.
        """
        summed = [part.reward for part in self.rewards if part.weight]
        silent = np.all([[np.isnan(turn.parts[reward.name]) for turn in turns] for reward in summed], axis=0)
        if not silent.any():
            return turns
        if all(map(is_rule, summed)) or silent.sum() > max(1, SILENT * silent.size) or silent.all():
            first = turns[int(np.argwhere(silent)[0][0])].prompt
            raise CheckError(
                f"no reward says anything about {silent.sum()} of {silent.size} replies, the first to prompt "
                f"{first.id}: {first.prompt[-1].content[:60]!r}"
            )
        unfinished = np.array([[c.finish == "length" for c in turn.completions] for turn in turns])
        earned = np.array([turn.scores for turn in turns]) + self.missing_eos_penalty * unfinished
        earned = np.where(silent, np.nan, earned)
        others = [np.nanmean(earned if quiet.all() else row) for row, quiet in zip(earned, silent, strict=True)]
        scores = np.where(silent, np.array(others)[:, None], earned) - self.missing_eos_penalty * unfinished
        return [replace(turn, scores=tuple(row)) for turn, row in zip(turns, scores.tolist(), strict=True)]

    def _tree(self, prompt: Prompt, completions: Sequence[Completion]) -> Tree:
        replies = tuple(
            Reply(np.array(c.ids, np.int32), numbers={"sampled": np.array(c.logps, np.float32)}) for c in completions
        )
        return Tree(prompt.id, np.array(self.policy.chat.prompt(prompt.prompt), np.int32), replies)

    def _measured(self, trees: Sequence[Tree]) -> list[Tree]:
        add = partial(
            with_token_numbers, layout=self.layout, pad=self.policy.contract.pad, max_tokens=self.max_tokens,
            device=self.accelerator.device, dtype=self.policy.contract.dtype,
        )  # fmt: skip
        temperature = self.sampling.temperature

        def own(batch: Batch) -> dict[str, Tensor]:
            logp, entropy, values = self.module(batch, temperature, True)
            return {"logp": logp, "entropy": entropy} | ({} if values is None else {"value": values})

        trees = add(own, trees)
        with self.policy.reference() as model:
            reference = LanguageModel(model)
            trees = add(lambda batch: {"reference": reference(batch, temperature).logp}, trees)
        self._check_drift(trees)
        return trees

    def _check_drift(self, trees: Sequence[Tree]) -> None:
        error, dtype = drift(trees), self.policy.contract.dtype
        if not error <= DRIFT[dtype]:
            raise TrainingError(
                f"sampling and training disagree about sampled tokens by {error:.2g} nats a token "
                f"(tolerance {DRIFT[dtype]:g}): ratios would not be those of the policy that sampled"
            )


def tokens(trees: Sequence[Tree], name: str) -> np.ndarray:
    """A number of every reply token of these trees, one after another."""
    return np.concatenate([reply.numbers[name] for tree in trees for reply in tree.replies])


def drift(trees: Sequence[Tree]) -> float:
    """Mean difference of a token's log-prob between sampling and training, in nats."""
    return float(np.abs(tokens(trees, "sampled") - tokens(trees, "logp")).mean())
