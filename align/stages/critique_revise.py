"""Supervised constitutional AI: a policy criticises its own replies by written principles, and revises them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from align.config import Endpoint, Sampling
from align.constitution import ConstitutionField, Principle, asked_to_criticise, asked_to_revise
from align.data import write
from align.data.fields import DataField
from align.errors import CheckError
from align.records import Demonstration, Message, Messages, Prompt
from align.rewards.base import RewardField, load, rehearse
from align.stage import Context, GeneratorRef, Stage

if TYPE_CHECKING:
    from align.generate.critique import Reviser

WRITTEN = 3
"""Replies that one conversation has room for: the first, its critique, its revision."""


class CritiqueRevise(Stage):
    """Answer prompts, criticise each reply by a principle of a constitution, revise it, and keep what was revised.

    Makes demonstrations of the last revision, to be imitated by `sft`; where preferences are wanted, the last revision
    is preferred to the first reply. Each row's `extra` has the whole transcript. Method of arXiv:2212.08073, section 3.
    """

    name = "critique_revise"
    makes = "records"

    policy: GeneratorRef
    """Who answers."""
    prompts: DataField
    """What is answered: prompts that invite the faults which the constitution is about."""
    constitution: ConstitutionField
    """What replies are held to: `harmless`, another name, or a file."""
    tags: tuple[str, ...] = ()
    """Only principles with one of these tags; none means all of them."""
    critic: GeneratorRef | None = None
    """Who criticises and revises; none means the policy itself."""
    revisions: int = Field(1, ge=1)
    """How many times each reply is criticised and revised, by another principle each time while there are some."""
    examples: int | None = Field(None, ge=0)
    """How many of the constitution's transcripts the critic is shown first; none means all."""
    sampling: Sampling = Sampling()
    """How replies, critiques and revisions are drawn, one of each."""
    identical: Literal["drop", "keep"] = "drop"
    """Revisions that say the same as the first reply: kept, they teach to leave good replies alone."""
    rewards: tuple[RewardField, ...] = ()
    """Scores of first replies and last revisions to add, each a `$reward`, a name or a block."""
    max_too_long: float = Field(0.1, ge=0, le=1)
    """The share of prompts that may leave no room for the whole conversation; those are left out, and more is an
    error."""

    @model_validator(mode="after")
    def _possible(self) -> CritiqueRevise:
        if self.sampling.n != 1:
            raise ValueError("sampling: a prompt gets one reply here; remove n")
        if self.examples is not None and self.examples > len(self.constitution.transcripts):
            raise ValueError(f"examples: the constitution has {len(self.constitution.transcripts)}")
        self.constitution.tagged(self.tags)
        return self

    def check(self, ctx: Context) -> dict[str, Any]:
        return {"prompts": len(self._asked(ctx)), "principles": len(self.constitution.tagged(self.tags))}

    def run(self, ctx: Context) -> dict[str, float]:
        from align.data.chunks import in_chunks
        from align.generate.critique import fault

        prompts = sorted(self._asked(ctx), key=lambda p: -sum(len(turn.content) for turn in p.prompt))
        what = "criticising and revising"
        rows = in_chunks(ctx, what, prompts, ctx.machine.sample_batch, self._reviser(ctx, what))
        known = {principle.name: principle for principle in self.constitution.principles}
        faults = [fault(row, known.__getitem__) for row in rows]
        metrics = self._score(ctx, prompts, rows)
        left_out = Counter(why for why in faults if why and (why, self.identical) != ("identical", "keep"))
        kept = [
            _demonstration(prompt, row)
            for prompt, row, why in zip(prompts, rows, faults, strict=True)
            if why not in left_out
        ]
        _tell(ctx, left_out, len(rows), len(kept))
        write(kept, ctx.out / "records.jsonl")
        shares = {name: count / len(rows) for name, count in sorted(Counter(filter(None, faults)).items())}
        return {"rows": len(kept), "kept": len(kept) / len(rows), **shares, **metrics}

    def _reviser(self, ctx: Context, what: str) -> Reviser:
        from align.data.chunks import tell
        from align.generate.critique import Reviser
        from align.generate.load import load_generator

        writer = load_generator(ctx, self.policy, keep=True)
        critic = writer if self.critic in (None, self.policy) else load_generator(ctx, self.critic, keep=True)
        return Reviser(
            writer, critic, self.constitution.tagged(self.tags), self.revisions, self.sampling, self._examples(),
            ctx.seed_of("transcripts"), tell(ctx, f"{what}, this batch"),
        )  # fmt: skip

    def _examples(self) -> Messages:
        return tuple(turn for example in self.constitution.transcripts[: self.examples] for turn in example.turns())

    def _asked(self, ctx: Context) -> list[Prompt]:
        """The prompts after which there is room for a reply, the longest principle's requests, and all the answers."""
        from align.evals.evaluate import questions
        from align.evals.fitting import fitting, readers

        prompts = questions(ctx, self.prompts)
        asked = [self.policy] if self.critic is None else [self.policy, self.critic]
        local = [reference for reference in asked if not isinstance(ctx.inputs.get(reference.name), Endpoint)]
        longest = max(self.constitution.tagged(self.tags), key=lambda p: len(p.critique) + len(p.revision))
        whole = [replace(p, prompt=self._conversation(p.prompt, longest)) for p in prompts]
        room = self.sampling.max_new_tokens * WRITTEN
        fit, left_out = fitting(whole, readers(ctx, local, ()), room, self.max_too_long)
        if left_out:
            ctx.note(left_out)
        ids = {id(p) for p in fit}
        kept = [prompt for prompt, long in zip(prompts, whole, strict=True) if id(long) in ids]
        if kept:
            rehearse(self.rewards, ctx, kept[0])
        return kept

    def _conversation(self, prompt: Messages, principle: Principle) -> Messages:
        return asked_to_revise(asked_to_criticise(prompt, ".", principle, self._examples()), ".", principle)

    def _score(self, ctx: Context, prompts: Sequence[Prompt], rows: list[dict[str, Any]]) -> dict[str, float]:
        """Adds each reward's scores to the transcripts' first and last replies. Returns their means over all rows."""
        means = {}
        for reward in (load(wanted, ctx) for wanted in self.rewards):
            for end, suffix in ((lambda row: row["initial"], "_initial"), (lambda row: row["revisions"][-1], "")):
                scores = reward(prompts, [end(row)["reply"] for row in rows])
                for row, score in zip(rows, scores, strict=True):
                    if not isnan(score):
                        end(row).setdefault("scores", {})[reward.name] = score
                told = [score for score in scores if not isnan(score)]
                if told:
                    means[f"{reward.name}{suffix}"] = sum(told) / len(told)
        return means


def _demonstration(prompt: Prompt, row: dict[str, Any]) -> Demonstration:
    """The last revision as the reply to imitate; `extra` has the transcript, and the principle that shaped it."""
    last = row["revisions"][-1]
    turns = (*prompt.prompt, Message("assistant", last["reply"]))
    extra = prompt.extra | row | {"principle": last["principle"]}
    return Demonstration(prompt.id, turns, (len(turns) - 1,), extra)


def _tell(ctx: Context, left_out: Counter[str], rows: int, kept: int) -> None:
    counted = ", ".join(f"{count} {why}" for why, count in left_out.items()) or "none"
    if not kept:
        raise CheckError(f"no revision is left of {rows}: {counted}")
    if left_out:
        ctx.note(f"{kept} of {rows} revisions are kept; left out {counted}")
