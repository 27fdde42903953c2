"""Replies of a policy, scored: all of them, or the best of each prompt's."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from align.config import Sampling
from align.data import write
from align.data.fields import DataField
from align.errors import CheckError
from align.records import Prompt, Sample
from align.rewards.base import RewardField, RewardRef, RewardSpec, direction, load, names, rehearse
from align.stage import Context, GeneratorRef, Stage


class SampleReplies(Stage):
    """Write n replies to every prompt and score them."""

    name = "sample"
    makes = "records"

    policy: GeneratorRef
    """Who writes: a policy, or an endpoint of `models:`."""
    prompts: DataField
    """What is answered; records of any kind but raw text have prompts."""
    sampling: Sampling = Sampling()
    """How replies are drawn."""
    rewards: tuple[RewardField, ...] = ()
    """Scores to add, each a `$reward`, a name or a block."""
    best_by: RewardField | None = None
    """Keep only that of the `sampling.n` replies to each prompt which this reward likes best: best-of-n."""
    max_too_long: float = Field(0.1, ge=0, le=1)
    """The share of prompts that may leave no room for a reply; those are left out, and more is an error."""

    @model_validator(mode="after")
    def _a_best_among_several(self) -> SampleReplies:
        if self.best_by is None:
            return self
        if self.sampling.n < 2:
            raise ValueError("best_by: the best of how many? Set sampling.n to 2 or more")
        if direction(self.best_by) is None:
            raise ValueError(f"best_by: {self.best_by.name!r} calls no score better; write `better: higher` or `lower`")
        names(self._scorers())
        return self

    def _scorers(self) -> tuple[RewardRef | RewardSpec, ...]:
        more = self.best_by is not None and self.best_by not in self.rewards
        return (*self.rewards, *([self.best_by] if self.best_by is not None and more else []))

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
        samples = scored(made, [load(reward, ctx) for reward in self._scorers()]).samples
        samples, cost = self._best(ctx, samples) if self.best_by is not None else (samples, {})
        write(samples, ctx.out / "records.jsonl")
        measures = descriptions(samples) | scores(samples, [reward.name for reward in self._scorers()])
        return {name: measure.value for name, measure in measures.items()} | {"replies": len(samples)} | cost

    def _best(self, ctx: Context, samples: list[Sample]) -> tuple[list[Sample], dict[str, float]]:
        """The best reply to each prompt, and what choosing costs in KL, nats a reply."""
        from align.evals.best_of import best, kl_bound

        assert self.best_by is not None
        kept = best(samples, self.best_by.name, direction(self.best_by))
        if not kept:
            raise CheckError(f"best_by: {self.best_by.name!r} has nothing to say about any reply")
        if apart := len(samples) // self.sampling.n - len(kept):
            ctx.note(f"{self.best_by.name} has nothing to say about the replies to {apart} prompts; they are left out")
        return kept, {"kl_at_most": kl_bound(self.sampling.n)}

    def _asked(self, ctx: Context) -> list[Prompt]:
        from align.evals.evaluate import questions
        from align.evals.fitting import fitting, readers

        reading = readers(ctx, [self.policy], self._scorers())
        prompts, left_out = fitting(
            questions(ctx, self.prompts), reading, self.sampling.max_new_tokens, self.max_too_long
        )
        if left_out:
            ctx.note(left_out)
        if prompts:
            rehearse(self._scorers(), ctx, prompts[0])
        return prompts
