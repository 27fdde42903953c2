"""What a policy is measured by: its answers, their log-probs under another policy, and its log-probs of given texts.

Answers are sampled once per (policy, prompts, decoding, seed) and kept in the store: a comparison with one more policy
samples that one only. All policies draw from the same random streams, so that part of the chance in a paired
difference cancels.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from align.config import Endpoint, Sampling
from align.data import read, read_file, write
from align.data.fields import Part
from align.disk import sha256_of
from align.errors import CheckError, Interrupted
from align.evals.statistics import Measure
from align.records import Prompt, Sample, Text, prompt_id
from align.rewards.base import Reward
from align.stage import Context, RecordsRef, Reference

if TYPE_CHECKING:
    from align.data.tree import Tree
    from align.generate.base import Generator, Progress
    from align.models.policy import Policy

VERSION = 3
"""Raise it when the same arguments make other answers."""
CHUNK = 2048
"""Replies that are kept together once they are written: so many a kill may cost."""


@dataclass(frozen=True, eq=False)
class Answers:
    """A policy's replies and the tokens they were sampled as."""

    samples: list[Sample]
    """Ordered as the prompts were, then by index."""
    ids: list[np.ndarray]
    """Each reply's token ids, with the stop id where it stopped; none at all where a server or a file has only text."""


def questions(ctx: Context, field: RecordsRef | Sequence[RecordsRef | Part]) -> list[Prompt]:
    """The prompts of a data field; of equal ones, whatever their ids, the first."""
    return list({prompt.prompt: prompt for prompt in reversed(read(ctx, field, Prompt))}.values())[::-1]


class Subject:
    """A model under evaluation, loaded when it is first needed, or asked behind its server."""

    def __init__(self, ctx: Context, reference: Reference):
        self.ctx, self.name = ctx, reference.name
        self.reference = reference
        self.weights = not isinstance(ctx[reference], Endpoint)
        """Whether it can say how likely a text is; a server only writes."""

    @property
    def tokenizer(self) -> str:
        """What names its tokenizer."""
        return self.policy.contract.tokenizer if self.weights else f"unknown, that of {self.name}"

    @cached_property
    def policy(self) -> Policy:
        from align.models.policy import load_policy

        source = self.ctx.checkpoint(self.reference)
        return load_policy(source, base=self.ctx.base, store=self.ctx.store, device=self.ctx.machine.device)

    def remark(self, sampling: Sampling) -> str:
        """What keeps its replies from being drawn as everybody's are."""
        return "" if self.weights else "asked through its server, which writes prompts in a template of its own"

    def release(self) -> None:
        """Gives the policy's memory back."""
        if self.__dict__.pop("policy", None) is not None:
            gc.collect()

    def answers(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> Answers:
        """The policy's replies to the prompts, from the store or sampled now.

        What is kept is known by what was asked; ids and further columns are those of the prompts given.
        """
        made = self._known(prompts, sampling, seed)
        by_prompt = {p.prompt: p for p in prompts}
        samples = [
            replace(s, id=by_prompt[s.prompt].id, policy=self.name, extra=by_prompt[s.prompt].extra)
            for s in made.samples
        ]  # fmt: skip
        return replace(made, samples=samples)

    def logps(self, answers: Answers, temperature: float) -> np.ndarray:
        """(replies,) what this policy says of another's replies: log-probs in nats of the same tokens, summed."""
        from align.data.tree import Reply, Tree

        asked = {s.prompt for s in answers.samples}
        prompts = {prompt: np.array(self.policy.chat.prompt(prompt), np.int32) for prompt in asked}
        trees = [
            Tree(f"{s.id}-{s.index}", prompts[s.prompt], (Reply(ids),))
            for s, ids in zip(answers.samples, answers.ids, strict=True)
        ]
        return self._logps(trees, temperature, f"log-probs of {answers.samples[0].policy} under {self.name}")

    def nll(self, texts: Sequence[Text], max_tokens: int) -> Measure:
        """Negative log-likelihood in nats a token of the first `max_tokens` tokens of each text.

        The first token has nothing before it and is not scored; the end of a text counts as a token.
        """
        from align.data.tree import Reply, Tree

        empty = np.array([], np.int32)
        ids = [np.array(self.policy.chat.document(text.text)[:max_tokens], np.int32) for text in texts]
        if short := sum(len(row) < 2 for row in ids):
            raise CheckError(f"{short} texts have fewer than 2 tokens; drop them with min_words")
        trees = [Tree(text.id, empty, (Reply(row),)) for text, row in zip(texts, ids, strict=True)]
        sums = self._logps(trees, 1.0, f"texts under {self.name}")
        return Measure(tuple(text.id for text in texts), -sums, np.array([len(row) - 1.0 for row in ids]))

    def _known(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> Answers:
        """From the store, or sampled now; always now if nobody can say by a key which model this is."""
        tell = self.progress(f"sampling {self.name}")
        if self.name not in self.ctx.keys or not self.weights:  # a server's answers are kept one by one
            return self._sample(prompts, sampling, seed, tell)
        made, size, whole = Answers([], []), max(1, CHUNK // sampling.n), len(prompts) * sampling.n
        for at in range(0, len(prompts), size):
            before = at * sampling.n
            part = self._kept(prompts[at : at + size], sampling, seed, lambda done, _, n=before: tell(n + done, whole))
            made = Answers(made.samples + part.samples, made.ids + part.ids)
        return made

    def _kept(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, tell: Progress) -> Answers:
        asked = [prompt_id(p.prompt) for p in prompts]
        decoding = sampling.model_dump(mode="json")
        key = sha256_of([VERSION, self.ctx.keys[self.name], asked, decoding, seed])[:24]
        folder = self.ctx.store.cached(
            "samples", key, lambda part: _keep(self._sample(prompts, sampling, seed, tell), part)
        )
        samples = [s for s in read_file(folder / "records.jsonl") if isinstance(s, Sample)]
        flat = np.load(folder / "ids.npy")
        return Answers(samples, np.split(flat, np.cumsum([s.tokens for s in samples])[:-1]))

    def _sample(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, tell: Progress) -> Answers:
        asked = [p.prompt for p in prompts]
        made = self.generator().generate(asked, sampling, seed, tell)
        samples = [
            Sample(
                prompts[c.prompt].id, prompts[c.prompt].prompt, c.text, self.name, index=c.index, finish=c.finish,
                tokens=c.tokens, logp=sum(c.logps),
            )
            for c in made
        ]  # fmt: skip
        return Answers(samples, [np.array(c.ids, np.int32) for c in made] if self.weights else [])

    def generator(self) -> Generator:
        from align.generate.load import generator_of, load_generator

        return generator_of(self.policy, self.ctx.machine) if self.weights else load_generator(self.ctx, self.reference)

    def _logps(self, trees: list[Tree], temperature: float, what: str) -> np.ndarray:
        from align.losses.reduce import per_reply
        from align.models.logprobs import LanguageModel
        from align.train.batching import token_budget
        from align.train.measure import per_reply_of

        tell, policy = self.progress(what), self.policy
        module = LanguageModel(policy.model).eval()
        sums = per_reply_of(
            lambda batch: per_reply(module(batch, temperature).logp.double(), batch.owner, len(batch.last)), trees,
            layout="plain", pad=policy.contract.pad, device=policy.model.device,
            max_tokens=token_budget(self.ctx.machine, policy.model.device),
            progress=lambda done: tell(done, len(trees)),
        )  # fmt: skip
        return np.concatenate(sums)

    def progress(self, what: str) -> Progress:
        """Tells people how far it is, and stops where a signal asked to."""

        def tell(done: int, total: int) -> None:
            self.ctx.emit("progress", what=what, done=done, total=total)
            if self.ctx.stopping():
                raise Interrupted(signal.SIGINT, f"stopped while {what}: {done} of {total}")

        return tell


def scored(answers: Answers, rewards: Sequence[Reward]) -> Answers:
    """The same answers with each reward's score, where it has something to say."""
    prompts = [Prompt(s.id, s.prompt, s.extra) for s in answers.samples]
    replies = [s.reply for s in answers.samples]
    columns = {reward.name: reward(prompts, replies) for reward in rewards}
    rows = [{name: scores[i] for name, scores in columns.items() if not isnan(scores[i])} for i in range(len(replies))]
    return replace(answers, samples=[replace(s, scores=row) for s, row in zip(answers.samples, rows, strict=True)])


def _keep(made: Answers, folder: Path) -> None:
    write(made.samples, folder / "records.jsonl")
    np.save(folder / "ids.npy", np.concatenate(made.ids))
