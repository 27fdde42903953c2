"""Which prompts are asked: those that leave every policy, and every reward model that reads the replies, room for one.

A prompt is never cut. One that is too long for a single reader is asked of none, so that all policies answer the same
prompts; which ones is settled before anything is sampled, by previews that read no weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from align.config import Endpoint, Model
from align.errors import CheckError
from align.models.preview import Preview, context_of, preview
from align.records import Prompt
from align.rewards.base import RewardSpec
from align.stage import Context, Reference, RewardRef


@dataclass(frozen=True)
class Reader:
    """A model that reads prompts with a reply after them."""

    name: str
    seen: Preview
    closing: int = 0
    """Tokens that it reads after a reply that was cut."""

    @property
    def writing(self) -> tuple[str, str]:
        """What decides how many tokens a prompt has."""
        return self.seen.contract.tokenizer, self.seen.contract.template


def readers(ctx: Context, policies: Iterable[Reference], rewards: Iterable[RewardRef | RewardSpec]) -> list[Reader]:
    """The policies and the reward models among the rewards; in a check, those that are there or have a forerunner.

    What a model behind a server reads is the server's business.
    """
    here = [p for p in policies if _at_hand(ctx, p) and not isinstance(ctx.inputs.get(p.name), Endpoint)]
    made = [Reader(p.name, preview(ctx.forerunner(p), ctx.base, ctx.store)) for p in here]
    for wanted in rewards:
        if isinstance(wanted, RewardSpec):
            if wanted.ensemble is not None:
                made += readers(ctx, (), wanted.ensemble.members)
            if wanted.model is not None:
                made.append(Reader(wanted.name, preview(wanted.model, ctx.base, ctx.store), closing=1))
        elif _at_hand(ctx, wanted):
            made.append(Reader(wanted.name, preview(ctx.checkpoint(wanted), ctx.base, ctx.store), closing=1))
    return made


def fitting(
    prompts: Sequence[Prompt], readers: Sequence[Reader], new_tokens: int, limit: float
) -> tuple[list[Prompt], str]:
    """The prompts that leave every reader room for a reply of `new_tokens`, and a line about the others.

    limit: the share of prompts that may be too long; more is an error.
    """
    lengths: dict[tuple[str, str], list[int]] = {}
    too_long: dict[int, str] = {}
    for reader in readers:
        if reader.writing not in lengths:
            lengths[reader.writing] = [len(reader.seen.chat.prompt(prompt.prompt)) for prompt in prompts]
        context = context_of(reader.seen.model)
        for i, length in enumerate(lengths[reader.writing]):
            if not length:
                raise CheckError(f"prompt {prompts[i].id} has no tokens for {reader.name}: nothing can follow it")
            if context is not None and length + new_tokens + reader.closing > context:
                too_long.setdefault(i, f"prompt {prompts[i].id} has {length} tokens for {reader.name}, whose context "
                                       f"is {context}")  # fmt: skip
    if not too_long:
        return list(prompts), ""
    share = len(too_long) / len(prompts)
    said = (
        f"{len(too_long)} of {len(prompts)} prompts ({share:.1%}) leave no room for {new_tokens} new tokens, "
        f"such as {next(iter(too_long.values()))}"
    )
    if share > limit:
        raise CheckError(
            f"{said}; {limit:.1%} may be (max_too_long). Lower max_new_tokens, or leave long prompts out by max_words"
        )
    return [prompt for i, prompt in enumerate(prompts) if i not in too_long], f"{said}; they are asked of nobody"


def has_weights(ctx: Context, reference: Reference) -> bool:
    """Whether a contestant is a model that is read here, not one behind a server nor ready answers."""
    source = ctx.inputs.get(reference.name, ctx.forerunners.get(reference.name))
    return isinstance(source, Model) or getattr(source, "kind", None) == "policy"


def _at_hand(ctx: Context, reference: Reference) -> bool:
    return reference.name in ctx.inputs or reference.name in ctx.forerunners
