"""Replies of a policy, scored."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from align.config import Sampling
from align.data import write
from align.data.fields import DataField
from align.records import Prompt
from align.rewards.base import RewardField, load, rehearse
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
    max_too_long: float = Field(0.1, ge=0, le=1)
    """The share of prompts that may leave no room for a reply; those are left out, and more is an error."""

    def check(self, ctx: Context) -> dict[str, Any]:
        prompts = len(self._asked(ctx))
        return {"prompts": prompts, "replies": prompts * self.sampling.n}

    def run(self, ctx: Context) -> dict[str, float]:
        from align.evals.evaluate import Subject, scored
        from align.evals.metrics import descriptions, scores

        prompts = self._asked(ctx)
        subject = Subject(ctx, self.policy)
        made = subject.answers(prompts, self.sampling, ctx.seed_of("replies"))
        subject.release()
        made = scored(made, [load(reward, ctx) for reward in self.rewards])
        write(made.samples, ctx.out / "records.jsonl")
        measures = descriptions(made.samples) | scores(made.samples, [reward.name for reward in self.rewards])
        return {name: measure.value for name, measure in measures.items()} | {"replies": len(made.samples)}

    def _asked(self, ctx: Context) -> list[Prompt]:
        from align.evals.evaluate import questions
        from align.evals.fitting import fitting, readers

        reading = readers(ctx, [self.policy], self.rewards)
        prompts, left_out = fitting(
            questions(ctx, self.prompts), reading, self.sampling.max_new_tokens, self.max_too_long
        )
        if left_out:
            ctx.note(left_out)
        if prompts:
            rehearse(self.rewards, ctx, prompts[0])
        return prompts
