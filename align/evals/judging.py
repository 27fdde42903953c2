"""Comparing by judges: a language model reads two replies to a prompt and says which is better (arXiv:2306.05685).

It is asked in both orders, and the mean of its probabilities is what the reply wins: a liking for a letter cancels, and
a judge that contradicts itself calls a tie. What is wrong with a judge is told beside what it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations, groupby
from typing import Any

import numpy as np

from align.config import Endpoint
from align.data import read
from align.data.chunks import tell
from align.disk import sha256_of
from align.evals import power
from align.evals.agreement import cohen_kappa
from align.evals.judges import PairJudge
from align.evals.ratings import ratings
from align.evals.statistics import Measure, difference, interval
from align.evals.verdicts import Standing, preferred
from align.evals.wins import Wins, win_rate
from align.generate.base import Generator
from align.generate.feedback import Judge, Pair
from align.generate.load import load_generator
from align.records import Messages, Preference, Sample, prompt_id
from align.stage import Context, Reference, seed_of

CHUNK = 128
"""Pairs that are kept together once they are judged."""
VERSION = 1
"""Raise it when the same pairs would be asked about otherwise."""


@dataclass(frozen=True, eq=False)
class Contest:
    """Replies of a policy, each beside one of a baseline's to the same prompt."""

    ids: tuple[str, ...]
    """(R,) prompts."""
    pairs: list[Pair]
    """(R,) the policy's reply first."""
    withheld: int = 0
    """Pairs that are left out, for a server kept a reply back."""

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
        return Wins(ids, where, both[known].mean(1), self.longer[known])


def contest(policy: Sequence[Sample], baseline: Sequence[Sample]) -> Contest:
    """The n-th reply of the one against the n-th of the other. Both are ordered by prompt."""
    theirs = {prompt: list(of) for prompt, of in groupby(baseline, key=lambda sample: sample.prompt)}
    beside = [
        (prompt, ours, other)
        for prompt, of in groupby(policy, key=lambda sample: sample.prompt)
        for ours, other in zip(of, theirs.get(prompt, ()), strict=False)
    ]
    kept = [(prompt, a.reply, b.reply) for prompt, a, b in beside if "refused" not in (a.finish, b.finish)]
    return Contest(tuple(prompt_id(prompt) for prompt, *_ in kept), kept, len(beside) - len(kept))


class Bench:
    """A judge at work, its model loaded when it is first needed; what it has said of a pair it is not asked again."""

    def __init__(self, ctx: Context, judge: PairJudge):
        self.ctx, self.judge = ctx, judge
        self.served = isinstance(ctx[judge.model], Endpoint)
        self.refused = 0
        """Questions that the judge's server declined."""

    @cached_property
    def generator(self) -> Generator:
        return load_generator(self.ctx, self.judge.model)

    def opinions(self, pairs: Sequence[Pair]) -> np.ndarray:
        """(pairs, 2) how likely the first reply is the better one, shown first and shown second; NaN where an answer
        could not be read. Of equal replies nobody is asked: either is as good."""
        made = np.full((len(pairs), 2), 0.5)
        asked = [i for i, (_, first, second) in enumerate(pairs) if first.strip() != second.strip()]
        for start in range(0, len(asked), CHUNK):
            tell(self.ctx, f"judging by {self.judge.name}")(start, len(asked))
            chunk = asked[start : start + CHUNK]
            made[chunk] = self._kept([pairs[i] for i in chunk])
        return made

    def _kept(self, pairs: list[Pair]) -> np.ndarray:
        """From the store; asked now where nobody can say by a key which model this is, or a server's answers are kept
        one by one."""
        if self.served or self.judge.model.name not in self.ctx.keys:
            return self._asked(pairs)
        shown = [[prompt_id(prompt), first, second] for prompt, first, second in pairs]
        how = self.judge.model_dump(mode="json", include={"text", "examples"})
        key = sha256_of([VERSION, self.ctx.keys[self.judge.model.name], how, shown])[:24]
        folder = self.ctx.store.cached("opinions", key, lambda part: np.save(part / "both.npy", self._asked(pairs)))
        return np.load(folder / "both.npy")

    def _asked(self, pairs: list[Pair]) -> np.ndarray:
        ask = Judge(
            self.generator, [self.judge.principle], 1, None, (0.0, 1.0), 0,
            tell(self.ctx, f"judging by {self.judge.name}, this batch"), self.judge.turns,
        )  # fmt: skip
        before = self._declined()
        rows = [row["principles"][self.judge.name] for row in ask(pairs)]
        self.refused += self._declined() - before
        return np.array(rows, float)  # None becomes NaN

    def _declined(self) -> int:
        from align.generate.endpoint import EndpointGenerator

        return self.generator.server.spent.refused if isinstance(self.generator, EndpointGenerator) else 0


def add_judge(
    ctx: Context, judge: PairJudge, samples: Mapping[str, Sequence[Sample]], found: dict[str, Any], seed: int,
    worth: float | None = None,
) -> None:  # fmt: skip
    """Adds to a comparison what a judge says of every pair of policies, and how far it can be trusted.

    samples: policy -> its replies, ordered by prompt. found: what `comparison` and `contests` made. worth: how far from
    a half a win rate has to be to matter; none means as far as any rate.
    """
    bench = Bench(ctx, judge)
    contests = {pair: contest(samples[pair[1]], samples[pair[0]]) for pair in combinations(samples, 2)}
    said = {pair: bench.opinions(met.pairs) for pair, met in contests.items()}
    wins = {pair: met.wins(said[pair]) for pair, met in contests.items()}
    wins = {pair: won for pair, won in wins.items() if len(won.ids) > 1}
    rates = {pair: won.rate for pair, won in wins.items()}
    for (baseline, policy), won in wins.items():
        found["win_rates"].append({"metric": judge.name, "policy": policy, "baseline": baseline, **win_rate(won, seed)})
    found["verdicts"] += verdicts(judge.name, rates, worth or power.WORTH_OF_RATES, seed)
    if len(samples) > 2 and (table := ratings(rates, seed)):
        found["ratings"][judge.name] = table
    made = reliability(list(contests.values()), list(said.values()), seed)
    made |= {"refused": bench.refused, "self": itself(ctx, judge.model, samples)}
    made["human"] = None if judge.human is None else agreement(bench, read(ctx, judge.human, Preference))
    found.setdefault("judges", {})[judge.name] = made
    found["notes"] += _notes(judge.name, made)


def verdicts(name: str, rates: Mapping[tuple[str, str], Measure], worth: float, seed: int) -> list[str]:
    """A sentence about each pair, held by Holm's procedure over all of them."""
    gaps = [
        difference(rate, Measure.of_means(rate.ids, np.full(len(rate.ids), 0.5)), seed) for rate in rates.values()
    ]  # fmt: skip
    made = []
    for (pair, rate), gap, p in zip(rates.items(), gaps, power.holm([gap.p for gap in gaps]), strict=True):
        standing = Standing(p, len(gaps), worth, power.needed(worth, gap.spread, len(gaps)))
        made.append(preferred(name, pair[1], pair[0], interval(rate, seed, share=True), gap, standing))
    return made


def reliability(contests: Sequence[Contest], said: Sequence[np.ndarray], seed: int) -> dict[str, Any]:
    """What the answers say about the judge, with intervals over prompts; equal replies, which it did not see, left out.

    `position_bias`: mean probability of the first place, minus a half. `agreement_of_orders`: share of pairs of which
    it prefers the same reply in both orders. `length`: what the longer reply wins, where one is longer.
    """
    ids = [id for met in contests for id in met.ids]
    longer = np.concatenate([met.longer for met in contests])
    differ = np.array([a.strip() != b.strip() for met in contests for _, a, b in met.pairs], bool)
    both = np.concatenate(said)
    known = differ & ~np.isnan(both).any(1)
    won, unequal = both.mean(1), known & (longer != 0)
    first, second = both.T - 0.5
    return {
        "pairs": int(differ.sum()),
        "equal": int((~differ).sum()),
        "withheld": sum(met.withheld for met in contests),
        "unread": int((differ & ~known).sum()),
        "position_bias": _mean(ids, (first - second) / 2, known, seed),
        "agreement_of_orders": _mean(ids, first * second > 0, known, seed),
        "length": _mean(ids, np.where(longer > 0, won, 1 - won), unequal, seed),
    }


def agreement(bench: Bench, pairs: Sequence[Preference]) -> dict[str, Any]:
    """Cohen's kappa of the judge and people over pairs that people have judged.

    Which reply counts as the first is decided by the replies themselves, for people's choice always comes first in a
    record.
    """
    turned = [_text(pair.chosen) > _text(pair.rejected) for pair in pairs]
    texts = [sorted((_text(pair.chosen), _text(pair.rejected))) for pair in pairs]
    shown: list[Pair] = [(pair.prompt, first, second) for pair, (first, second) in zip(pairs, texts, strict=True)]
    opinions = (bench.opinions(shown).mean(1) - 0.5).round(9)  # a half is a half, however it was rounded
    people = np.array([(pair.label - 0.5) * (-1 if turn else 1) for pair, turn in zip(pairs, turned, strict=True)])
    known = ~np.isnan(opinions)
    theirs, ours = (np.sign(said[known]).astype(int).tolist() for said in (people, opinions))
    kappa, low, high = cohen_kappa(theirs, ours)
    same = float(np.mean(np.equal(theirs, ours))) if theirs else None
    return {"kappa": kappa, "low": low, "high": high, "same": same, "n": len(theirs)}


def itself(ctx: Context, judge: Reference, policies: Mapping[str, Any]) -> str | None:
    """The contestant that judges, or None."""
    key = ctx.keys.get(judge.name)
    same = (name for name in policies if name == judge.name or (key is not None and ctx.keys.get(name) == key))
    return next(same, None)


def _mean(ids: Sequence[str], values: np.ndarray, where: np.ndarray, seed: int) -> dict[str, Any] | None:
    """The mean of the values that are meant, with its interval over prompts; None where fewer than two have any."""
    place = {id: at for at, id in enumerate(dict.fromkeys(id for id, meant in zip(ids, where, strict=True) if meant))}
    if len(place) < 2:
        return None
    at = np.array([place[id] for id, meant in zip(ids, where, strict=True) if meant])
    made = Measure(tuple(place), np.bincount(at, values[where].astype(float)), np.bincount(at).astype(float))
    return asdict(interval(made, seed_of(seed, "reliability"), share=made.is_binary))


def _notes(name: str, made: Mapping[str, Any]) -> list[str]:
    notes = []
    if made["self"]:
        notes.append(
            f"{name}: the judge is {made['self']} itself, and models prefer what they wrote (arXiv:2404.13076)"
        )
    if made["unread"]:
        notes.append(f"{name}: {made['unread']} of {made['pairs']} pairs count for nothing, for an answer was neither "
                     "A nor B, or left no room for one")  # fmt: skip
    if made["withheld"]:
        notes.append(f"{name}: {made['withheld']} pairs are not judged, for a server kept a reply back")
    return notes


def _text(turns: Messages) -> str:
    return "\n\n".join(turn.content for turn in turns)
