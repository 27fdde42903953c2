"""What a judge says of pairs of replies, asked once and kept, with what it thought on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from align.config import Endpoint
from align.constitution import asked_to_conclude
from align.data.chunks import tell
from align.disk import sha256_of
from align.evals.judges import PairJudge
from align.evals.wins import Wins
from align.generate.base import Generator
from align.generate.feedback import Judge, Pair
from align.generate.load import load_generator
from align.records import Prompt, Sample, prompt_id
from align.stage import Context

CHUNK = 128
"""Pairs that are kept together once they are judged."""
THOUGHTFUL = 16
"""The same of a judge that reasons, which takes so much longer."""
ANSWER = 16
"""Tokens of the answer after reasoning, and of what asks for it."""
VERSION = 2
"""Raise it when the same pairs would be asked about otherwise."""


@dataclass(frozen=True, eq=False)
class Contest:
    """Replies of a policy, each beside one of a baseline's to the same prompt."""

    ids: tuple[str, ...]
    """(R,) prompts."""
    pairs: list[Pair]
    """(R,) the policy's reply first."""
    indices: tuple[int, ...] = ()
    """(R,) which of the policy's replies to the prompt."""
    withheld: int = 0
    """Pairs that are left out, for a server kept a reply back."""
    clusters: Mapping[str, str] = field(default_factory=dict)
    """Prompt -> what it belongs to; those not in it stand alone."""

    @cached_property
    def longer(self) -> np.ndarray:
        """(R,) characters by which the policy's reply is longer."""
        return np.array([len(first) - len(second) for _, first, second in self.pairs], float)

    def wins(self, both: np.ndarray) -> Wins:
        """What the policy won by the opinions that could be read in both orders."""
        known = np.flatnonzero(~np.isnan(both).any(1))
        ids = tuple(dict.fromkeys(self.ids[i] for i in known))
        place = {id: at for at, id in enumerate(ids)}
        where = np.array([place[self.ids[i]] for i in known], int)
        return Wins(ids, where, both[known].mean(1), self.longer[known], self.clusters)


def contest(
    policy: Sequence[Sample], baseline: Sequence[Sample], clusters: Mapping[str, str] | None = None
) -> Contest:  # fmt: skip
    """The n-th reply of the one against the n-th of the other. Both are ordered by prompt."""
    theirs = {prompt: list(of) for prompt, of in groupby(baseline, key=lambda sample: sample.prompt)}
    beside = [
        (ours, other)
        for prompt, of in groupby(policy, key=lambda sample: sample.prompt)
        for ours, other in zip(of, theirs.get(prompt, ()), strict=False)
    ]
    kept = [(a, b) for a, b in beside if "refused" not in (a.finish, b.finish)]
    return Contest(
        tuple(prompt_id(a.prompt) for a, _ in kept), [(a.prompt, a.reply, b.reply) for a, b in kept],
        tuple(a.index for a, _ in kept), len(beside) - len(kept), clusters or {},
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Opinions:
    """What was said of some pairs."""

    both: np.ndarray
    """(pairs, 2) how likely the first reply is the better one, shown first and shown second; NaN where an answer could
    not be read. Of equal replies nobody is asked: either is as good."""
    thoughts: list[list[str]]
    """(pairs,) what the judge thought in either order; nothing where it did not reason."""
    cut: np.ndarray
    """(pairs,) thoughts that ended at the token limit."""


class Bench:
    """A judge at work, its model loaded when it is first needed; what it has said of a pair it is not asked again."""

    def __init__(self, ctx: Context, judge: PairJudge):
        self.ctx, self.judge = ctx, judge
        self.served = isinstance(ctx[judge.model], Endpoint)
        self.seed = ctx.seed_of("judging") if judge.reasoning else 0
        self.refused = 0
        """Questions that the judge's server declined."""

    @cached_property
    def generator(self) -> Generator:
        return load_generator(self.ctx, self.judge.model)

    def opinions(self, pairs: Sequence[Pair]) -> Opinions:
        """Of each pair, from the store or asked now, some at a time."""
        made = Opinions(np.full((len(pairs), 2), 0.5), [[] for _ in pairs], np.zeros(len(pairs), int))
        asked = [i for i, (_, first, second) in enumerate(pairs) if first.strip() != second.strip()]
        size = THOUGHTFUL if self.judge.reasoning else CHUNK
        for start in range(0, len(asked), size):
            tell(self.ctx, f"judging by {self.judge.name}")(start, len(asked))
            chunk = asked[start : start + size]
            found = self._kept([pairs[i] for i in chunk])
            made.both[chunk], made.cut[chunk] = found.both, found.cut
            for i, thoughts in zip(chunk, found.thoughts, strict=True):
                made.thoughts[i] = thoughts
        return made

    def _kept(self, pairs: list[Pair]) -> Opinions:
        """From the store; asked now where nobody can say by a key which model this is, or a server's answers are kept
        one by one."""
        if self.served or self.judge.model.name not in self.ctx.keys:
            return self._asked(pairs)
        shown = [[prompt_id(prompt), first, second] for prompt, first, second in pairs]
        how = self.judge.model_dump(
            mode="json", include={"text", "examples", "reasoning", "verdict"}, exclude_defaults=True
        )
        key = sha256_of([VERSION, self.ctx.keys[self.judge.model.name], how, self.seed, shown])[:24]
        return _read(self.ctx.store.cached("opinions", key, lambda part: _write(self._asked(pairs), part)))

    def _asked(self, pairs: list[Pair]) -> Opinions:
        """Asked now; nothing is said of pairs that leave no room to think."""
        made = Opinions(np.full((len(pairs), 2), np.nan), [[] for _ in pairs], np.zeros(len(pairs), int))
        fit = self._with_room(pairs)
        rows, name = self._answers([pairs[i] for i in fit]), self.judge.name
        for i, row in zip(fit, rows, strict=True):
            made.both[i] = np.array(row["principles"][name], float)  # None becomes NaN
            made.thoughts[i], made.cut[i] = row.get("thoughts", {}).get(name, []), row.get("cut", 0)
        return made

    def _with_room(self, pairs: list[Pair]) -> list[int]:
        """Positions of the pairs about which the judge's context leaves room to reason, as far as anybody knows."""
        if self.judge.reasoning is None or self.served:
            return list(range(len(pairs)))
        from align.evals.fitting import fitting, readers

        asked = [
            Prompt(str(i), (*self.judge.turns, *asked_to_conclude(*pair, self.judge.principle)))
            for i, pair in enumerate(pairs)
        ]  # fmt: skip
        room = self.judge.reasoning.max_new_tokens + ANSWER
        fit, _ = fitting(asked, readers(self.ctx, [self.judge.model], ()), room, limit=1.0)
        return [int(prompt.id) for prompt in fit]

    def _answers(self, pairs: list[Pair]) -> list[dict[str, Any]]:
        judge = self.judge
        ask = Judge(
            self.generator, [judge.principle], 1, judge.reasoning, (0.0, 1.0), self.seed,
            tell(self.ctx, f"judging by {judge.name}, this batch"), judge.turns, judge.verdict == "written",
        )  # fmt: skip
        before = self._declined()
        rows = ask(pairs)
        self.refused += self._declined() - before
        return rows

    def _declined(self) -> int:
        from align.generate.endpoint import EndpointGenerator

        return self.generator.server.spent.refused if isinstance(self.generator, EndpointGenerator) else 0


def _write(found: Opinions, folder: Path) -> None:
    np.savez(folder / "opinions.npz", both=found.both, cut=found.cut)
    (folder / "thoughts.json").write_text(json.dumps(found.thoughts))


def _read(folder: Path) -> Opinions:
    with np.load(folder / "opinions.npz") as kept:
        return Opinions(kept["both"], json.loads((folder / "thoughts.json").read_text()), kept["cut"])
