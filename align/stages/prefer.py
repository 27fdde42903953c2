"""Preferences from samples: best against worst, by a reward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import isnan
from typing import Any, Literal

from pydantic import Field, model_validator

from align.data import read, write
from align.data.fields import DataField
from align.errors import CheckError
from align.records import Message, Messages, Preference, Prompt, Sample
from align.rewards.base import Reward, RewardField, direction, load, rehearse
from align.stage import Context, Stage


class Prefer(Stage):
    """Make a preference of the best and the worst reply to each prompt, by a reward.

    With samples of the policy that is to be tuned, sample -> prefer -> dpo is on-policy DPO.
    """

    name = "prefer"
    makes = "records"

    data: DataField
    """Samples, several to a prompt."""
    reward: RewardField
    """What says which is best: a `$reward`, a name or a block."""
    min_margin: float = Field(0.0, ge=0)
    """Leave out prompts whose best and worst replies differ by no more than this."""
    unfinished: Literal["drop", "keep"] = "drop"
    """Replies that were cut at the token limit; kept ones are marked, so that no stop is trained after them."""

    @model_validator(mode="after")
    def _says_what_is_better(self) -> Prefer:
        if direction(self.reward) is None:
            raise ValueError(
                f"reward: {self.reward.name!r} calls no score better; write `better: higher` or `better: lower`"
            )
        return self

    def check(self, ctx: Context) -> dict[str, Any]:
        samples = read(ctx, self.data, Sample)
        if samples:
            rehearse([self.reward], ctx, _prompt(samples[0]))
        return {"samples": len(samples)}

    def run(self, ctx: Context) -> dict[str, float]:
        samples = read(ctx, self.data, Sample)
        reward = load(self.reward, ctx)
        left_out: Counter[str] = Counter()
        pairs = list(self._pairs(samples, reward, left_out))
        if not pairs:
            raise CheckError(f"no pair is left of {len(samples)} samples; {_counted(left_out)}")
        if left_out:
            ctx.note(f"{len(pairs)} pairs; {_counted(left_out)}")
        write(pairs, ctx.out / "records.jsonl")
        margins = [pair.margin or 0.0 for pair in pairs]
        return {"pairs": len(pairs), "margin": sum(margins) / len(pairs), **{k: float(v) for k, v in left_out.items()}}

    def _pairs(self, samples: list[Sample], reward: Reward, left_out: Counter[str]) -> Iterator[Preference]:
        kept = [s for s in samples if self.unfinished == "keep" or s.finish == "stop"]
        if len(kept) < len(samples):
            left_out["unfinished replies"] = len(samples) - len(kept)
        scores = reward([_prompt(s) for s in kept], [s.reply for s in kept])
        sign = -1 if reward.better == "lower" else 1
        scored = [(s, score) for s, score in zip(kept, scores, strict=True) if not isnan(score)]
        if len(scored) < len(kept):
            left_out["replies without a score"] = len(kept) - len(scored)
        answered: dict[Messages, list[tuple[Sample, float]]] = {}
        for sample, score in scored:
            answered.setdefault(sample.prompt, []).append((sample, score))
        for group in answered.values():
            order = sorted(group, key=lambda pair: (-sign * pair[1], pair[0].index))
            (best, high), (worst, low) = order[0], order[-1]
            margin = abs(high - low)
            if len(order) < 2:
                left_out["prompts with one reply"] += 1
            elif margin <= self.min_margin or best.reply == worst.reply:
                left_out["prompts without a margin"] += 1
            else:
                chosen, rejected = ((Message("assistant", s.reply),) for s in (best, worst))
                cut = tuple(n for n, s in (("chosen", best), ("rejected", worst)) if s.finish == "length")
                yield Preference(
                    best.id, best.prompt, chosen, rejected, margin=margin, unfinished=cut, extra=best.extra
                )


def _prompt(sample: Sample) -> Prompt:
    return Prompt(sample.id, sample.prompt, sample.extra)


def _counted(left_out: Counter[str]) -> str:
    return "left out " + (", ".join(f"{count} {what}" for what, count in left_out.items()) or "nothing")
