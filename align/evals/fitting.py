"""Which prompts are asked: those that leave every policy, and every reward model that reads the replies, room for one.

A prompt is never cut. One that is too long for a single reader is asked of none, so that all policies answer the same
prompts; which ones is settled before anything is sampled, by previews that read no weights.
"""

from __future__ import annotations

import math
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
    """A model that reads prompts with a reply after them: its own, or with `scores` another's."""

    name: str
    seen: Preview
    scores: bool = False

    @property
    def writing(self) -> tuple[str, str]:
        """What decides how many tokens a prompt has."""
        return self.seen.contract.tokenizer, self.seen.contract.template

    def tokens(self, texts: list[str]) -> int:
        """How many tokens it makes of texts."""
        return sum(map(len, self.seen.tokenizer(texts, add_special_tokens=False)["input_ids"]))  # type: ignore[arg-type]


def readers(ctx: Context, policies: Iterable[Reference], rewards: Iterable[RewardRef | RewardSpec]) -> list[Reader]:
    """The policies and the reward models among the rewards; in a check, those that are there or have a forerunner.

    What a model behind a server reads is the server's business.
    """
    here = [p for p in policies if ctx.knows(p) and not isinstance(ctx.inputs.get(p.name), Endpoint)]
    made = [Reader(p.name, preview(ctx.forerunner(p), ctx.base, ctx.store)) for p in here]
    for wanted in rewards:
        if isinstance(wanted, RewardSpec):
            if wanted.ensemble is not None:
                made += readers(ctx, (), wanted.ensemble.members)
            if wanted.model is not None:
                made.append(Reader(wanted.name, preview(wanted.model, ctx.base, ctx.store), scores=True))
        elif ctx.knows(wanted):
            made.append(Reader(wanted.name, preview(ctx.forerunner(wanted), ctx.base, ctx.store), scores=True))
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
        context, room = context_of(reader.seen.model), _room(reader, readers[0], prompts, new_tokens)
        for i, length in enumerate(lengths[reader.writing]):
            if not length:
                raise CheckError(f"prompt {prompts[i].id} has no tokens for {reader.name}: nothing can follow it")
            if context is not None and length + room > context:
                also = f" and a reply may have {room}" if room > new_tokens + 1 else ""
                too_long.setdefault(i, f"prompt {prompts[i].id} has {length} tokens for {reader.name}, whose context "
                                       f"is {context}{also}")  # fmt: skip
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


def _room(reader: Reader, writer: Reader, prompts: Sequence[Prompt], new_tokens: int) -> int:
    """The tokens that a reader may find a reply of `new_tokens` to have. Whoever scores it closes it, if it was cut,
    and one with another tokenizer makes about as many more tokens of it as of the prompts."""
    if not reader.scores:
        return new_tokens
    if reader.seen.contract.tokenizer == writer.seen.contract.tokenizer:
        return new_tokens + 1
    said = [message.content for prompt in prompts for message in prompt.prompt]
    return math.ceil(new_tokens * max(1.0, reader.tokens(said) / max(writer.tokens(said), 1))) + 1


def has_weights(ctx: Context, reference: Reference) -> bool:
    """Whether a contestant is a model that is read here, not one behind a server nor ready answers."""
    source = ctx.inputs.get(reference.name, ctx.forerunners.get(reference.name))
    return isinstance(source, Model) or getattr(source, "kind", None) == "policy"
