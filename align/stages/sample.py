"""Replies of a policy, scored."""

from __future__ import annotations

from typing import Any

from align.config import Sampling
from align.data import write
from align.data.fields import DataField
from align.rewards.base import RewardField, load
from align.stage import Context, PolicyRef, Stage


class SampleReplies(Stage):
    """Write n replies to every prompt and score them."""

    name = "sample"
    makes = "records"

    policy: PolicyRef
    """Who writes."""
    prompts: DataField
    """What is answered; records of any kind but raw text have prompts."""
    sampling: Sampling = Sampling()
    """How replies are drawn."""
    rewards: tuple[RewardField, ...] = ()
    """Scores to add, each a `$reward`, a name or a block."""

    def check(self, ctx: Context) -> dict[str, Any]:
        from align.evals.evaluate import questions

        prompts = len(questions(ctx, self.prompts))
        return {"prompts": prompts, "replies": prompts * self.sampling.n}

    def run(self, ctx: Context) -> dict[str, float]:
        from align.evals.evaluate import Subject, questions, scored
        from align.evals.metrics import descriptions, scores

        prompts = questions(ctx, self.prompts)
        subject = Subject(ctx, self.policy)
        made = subject.answers(prompts, self.sampling, ctx.seed_of("replies"))
        subject.release()
        made = scored(made, [load(reward, ctx) for reward in self.rewards])
        write(made.samples, ctx.out / "records.jsonl")
        measures = descriptions(made.samples) | scores(made.samples, [reward.name for reward in self.rewards])
        return {name: measure.value for name, measure in measures.items()} | {"replies": len(made.samples)}
