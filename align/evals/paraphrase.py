"""The same questions in other words: a transformation of prompts that a language model makes.

Each question is put to it once. What it says is kept with the model's key, or answer by answer where it is behind a
server, so a comparison with one more policy asks nothing again. Rewordings that cannot be the same question are counted
and left out; whether the others are is for people to see: they lie beside the comparison, in `prompts`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Discriminator, Field, Tag, model_validator

from align.config import Config, Endpoint, Sampling
from align.disk import sha256_of, write_json
from align.evals.brittleness import TransformationName
from align.records import Message, Messages, Prompt, prompt_id
from align.stage import Context, GeneratorRef

REQUEST = (
    "Say the text below in other words. Keep its language, its meaning and every fact in it, and do not reply to it. "
    "Write nothing but the new wording."
)
VERSION = 2
"""Raise it when the same questions would be put otherwise."""
SHORT = 40
"""Characters. A text that is shorter may grow as if it had so many."""


class Paraphrase(Config):
    """The same prompts in other words, by a language model: `{paraphrase: $judge}`."""

    paraphrase: GeneratorRef
    """Who rewrites the last message of each prompt: a policy, or an endpoint of `models:`."""
    name: str = "paraphrase"
    """What its rows are called."""
    request: str = Field(REQUEST, min_length=1)
    """What is asked, above the text."""
    sampling: Sampling = Sampling(temperature=0)
    """How it is drawn: one rewording of each."""
    longest: float = Field(2.0, ge=1)
    """A rewording with more than so many times the characters is no rewording; it is left out and counted."""

    @model_validator(mode="after")
    def _one_each(self) -> Paraphrase:
        if self.sampling.n != 1:
            raise ValueError(f"sampling: a prompt is put in other words once; n is {self.sampling.n}")
        return self


TransformationField = Annotated[
    Annotated[TransformationName, Tag("name")] | Annotated[Paraphrase, Tag("block")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "block"),
]
"""A transformation by its name, or a block that says who rewords."""


def paraphrased(
    ctx: Context, spec: Paraphrase, prompts: Sequence[Prompt], seed: int
) -> tuple[list[tuple[Prompt, Prompt]], Counter[str]]:
    """(original, reworded) for each prompt that was put in other words, and how many others there are and why.

    Of prompts that become equal, the first.
    """
    made: dict[Messages, tuple[Prompt, Prompt]] = {}
    left_out: Counter[str] = Counter()
    known = _reworded(ctx, spec, prompts, seed)
    for prompt in prompts:
        old, new = prompt.prompt[-1].content, known.get(prompt_id(prompt.prompt))
        why = "too long for the model" if new is None else _fault(old, *new, spec.longest)
        if why or new is None:
            left_out[why] += 1
            continue
        asked = (*prompt.prompt[:-1], Message(prompt.prompt[-1].role, new[0].strip()))
        if asked in made:
            left_out["equal to another"] += 1
        else:
            made[asked] = (prompt, replace(prompt, prompt=asked))
    return list(made.values()), left_out


def told(name: str, left_out: Counter[str], prompts: int) -> str:
    """A line about what was left out; nothing where all is well."""
    counted = ", ".join(f"{count} {why}" for why, count in left_out.items())
    return f"{name}: {left_out.total()} of {prompts} rewordings are left out: {counted}" if counted else ""


def _fault(old: str, new: str, finish: str, longest: float) -> str:
    """What is wrong with a rewording that can be seen without reading it."""
    if finish == "refused":
        return "refused"
    if finish == "length":
        return "cut at the token limit"
    if not new.strip():
        return "empty"
    if _bare(new) == _bare(old):
        return "unchanged"
    return f"more than {longest:g} times as long" if len(new) > longest * max(len(old), SHORT) else ""


def _bare(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


Reworded = dict[str, tuple[str, str]]
"""Id of a prompt's content -> what the model made of it, and how that ended."""


def _reworded(ctx: Context, spec: Paraphrase, prompts: Sequence[Prompt], seed: int) -> Reworded:
    """From the store; asked now where nobody can say by a key which model this is, or a server keeps its answers."""
    name = spec.paraphrase.name
    if name not in ctx.keys or isinstance(ctx[spec.paraphrase], Endpoint):
        return _asked(ctx, spec, prompts, seed)
    how = spec.model_dump(mode="json", include={"request", "sampling"})
    key = sha256_of([VERSION, ctx.keys[name], how, seed, [prompt_id(prompt.prompt) for prompt in prompts]])[:24]
    folder = ctx.store.cached(
        "paraphrases", key, lambda part: write_json(part / "texts.json", _asked(ctx, spec, prompts, seed))
    )
    kept = json.loads((folder / "texts.json").read_text("utf-8"))
    return {id: (text, finish) for id, (text, finish) in kept.items()}


def _asked(ctx: Context, spec: Paraphrase, prompts: Sequence[Prompt], seed: int) -> Reworded:
    from align.data.chunks import tell
    from align.evals.fitting import fitting, readers
    from align.generate.load import load_generator

    questions = [
        replace(prompt, prompt=(Message("user", f"{spec.request}\n\n{prompt.prompt[-1].content}"),))
        for prompt in prompts
    ]  # fmt: skip
    by_id = {prompt_id(prompt.prompt): question for prompt, question in zip(prompts, questions, strict=True)}
    writers = [] if isinstance(ctx[spec.paraphrase], Endpoint) else readers(ctx, [spec.paraphrase], ())
    fit, _ = fitting(questions, writers, spec.sampling.max_new_tokens, limit=1.0)
    there = {id(question) for question in fit}
    kept = {name: question for name, question in by_id.items() if id(question) in there}
    generator = load_generator(ctx, spec.paraphrase)
    made = generator.generate([q.prompt for q in kept.values()], spec.sampling, seed, tell(ctx, f"writing {spec.name}"))
    return {name: (done.text, done.finish) for name, done in zip(kept, made, strict=True)}
