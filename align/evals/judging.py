"""Comparing by judges: a language model reads two replies to a prompt and says which is better (arXiv:2306.05685).

It is asked in both orders, and the mean of its probabilities is what the reply wins: a liking for a letter cancels, and
a judge that contradicts itself calls a tie. What is wrong with a judge is told beside what it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from align.data import read
from align.data.files import write_rows
from align.evals import power
from align.evals.agreement import cohen_kappa
from align.evals.clusters import places
from align.evals.judges import PairJudge
from align.evals.opinions import Bench, Contest, Opinions, contest
from align.evals.ratings import ratings
from align.evals.statistics import Measure, difference, interval
from align.evals.verdicts import Standing, preferred
from align.evals.wins import win_rate
from align.generate.feedback import Pair
from align.records import Messages, Preference, Sample
from align.stage import Context, Reference, seed_of

Held = Mapping[tuple[str, str], tuple[Contest, Opinions]]
"""(baseline, policy) -> their replies side by side, and what was said of them."""


def add_judge(
    ctx: Context, judge: PairJudge, samples: Mapping[str, Sequence[Sample]], found: dict[str, Any], seed: int,
    worth: float | None = None, clusters: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Adds to a comparison what a judge says of every pair of policies, and how far it can be trusted.

    samples: policy -> its replies, ordered by prompt. found: what `comparison` and `contests` made. worth: how far from
    a half a win rate has to be to matter; none means as far as any rate. clusters: prompt -> what it belongs to.
    """
    bench = Bench(ctx, judge)
    contests = {pair: contest(samples[pair[1]], samples[pair[0]], clusters) for pair in combinations(samples, 2)}
    held = {pair: (met, bench.opinions(met.pairs)) for pair, met in contests.items()}
    _keep(held, ctx.out / "judgements" / f"{judge.name}.jsonl")
    wins = {pair: met.wins(said.both) for pair, (met, said) in held.items()}
    wins = {pair: won for pair, won in wins.items() if won.rate.units > 1}
    rates = {pair: won.rate for pair, won in wins.items()}
    for (baseline, policy), won in wins.items():
        found["win_rates"].append({"metric": judge.name, "policy": policy, "baseline": baseline, **win_rate(won, seed)})
    found["verdicts"] += verdicts(judge.name, rates, worth or power.WORTH_OF_RATES, seed)
    if len(samples) > 2 and (table := ratings(rates, seed)):
        found["ratings"][judge.name] = table
    made = reliability(list(held.values()), seed)
    made |= {"refused": bench.refused, "self": itself(ctx, judge.model, samples)}
    made["human"] = None if judge.human is None else agreement(bench, read(ctx, judge.human, Preference))
    found.setdefault("judges", {})[judge.name] = made
    found["notes"] += _notes(judge.name, made)


def verdicts(name: str, rates: Mapping[tuple[str, str], Measure], worth: float, seed: int) -> list[str]:
    """A sentence about each pair, held by Holm's procedure over all of them."""
    gaps = [
        difference(rate, replace(rate, total=np.full(len(rate.ids), 0.5)), seed) for rate in rates.values()
    ]  # fmt: skip
    made = []
    for (pair, rate), gap, p in zip(rates.items(), gaps, power.holm([gap.p for gap in gaps]), strict=True):
        standing = Standing(p, len(gaps), worth, power.prompts_needed(gap, worth, len(gaps)))
        made.append(preferred(name, pair[1], pair[0], interval(rate, seed, share=True), gap, standing))
    return made


def reliability(held: Sequence[tuple[Contest, Opinions]], seed: int) -> dict[str, Any]:
    """What the answers say about the judge, with intervals over prompts, or over what they belong to; equal
    replies, which it did not see, are left out.

    `cut`: thoughts that ended at the token limit. `position_bias`: mean probability of the first place, minus a half.
    `agreement_of_orders`: share of pairs of which it prefers the same reply in both orders. `length`: what the longer
    reply wins, where one is longer.
    """
    contests = [met for met, _ in held]
    ids = [met.clusters.get(id, id) for met in contests for id in met.ids]
    longer = np.concatenate([met.longer for met in contests])
    differ = np.array([a.strip() != b.strip() for met in contests for _, a, b in met.pairs], bool)
    both = np.concatenate([said.both for _, said in held])
    known = differ & ~np.isnan(both).any(1)
    won, unequal = both.mean(1), known & (longer != 0)
    first, second = both.T - 0.5
    return {
        "pairs": int(differ.sum()),
        "equal": int((~differ).sum()),
        "withheld": sum(met.withheld for met in contests),
        "unread": int((differ & ~known).sum()),
        "cut": sum(int(said.cut.sum()) for _, said in held),
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
    opinions = (bench.opinions(shown).both.mean(1) - 0.5).round(9)  # a half is a half, however it was rounded
    people = np.array([(pair.label - 0.5) * (-1 if turn else 1) for pair, turn in zip(pairs, turned, strict=True)])
    known = ~np.isnan(opinions)
    theirs, ours = (np.sign(said[known]).astype(int).tolist() for said in (people, opinions))
    place = places([pair.prompt for pair in pairs])[known]
    kappa, low, high = cohen_kappa(theirs, ours, place)
    same, clusters = float(np.mean(np.equal(theirs, ours))) if theirs else None, len(set(place.tolist()))
    return {
        "kappa": kappa, "low": low, "high": high, "same": same, "n": len(theirs),
        "clusters": clusters if clusters < len(theirs) else None,
    }  # fmt: skip


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
        notes.append(f"{name}: {made['unread']} of {made['pairs']} pairs count for nothing, for an answer was no "
                     "verdict, or left no room for one")  # fmt: skip
    if made["cut"]:
        notes.append(f"{name}: {made['cut']} of {2 * made['pairs']} thoughts ended at the token limit of `reasoning`")
    if made["withheld"]:
        notes.append(f"{name}: {made['withheld']} pairs are not judged, for a server kept a reply back")
    return notes


def _keep(held: Held, file: Path) -> None:
    """Every opinion, one row a pair of replies: how likely the policy's is the better one, shown first and shown
    second, null where that could not be read, and what the judge thought in either order."""
    rows = [
        {"prompt": id, "index": index, "policy": policy, "baseline": baseline,
         "both": [None if np.isnan(p) else round(float(p), 4) for p in both]} | ({"thoughts": why} if why else {})
        for (baseline, policy), (met, said) in held.items()
        for id, index, both, why in zip(met.ids, met.indices, said.both, said.thoughts, strict=True)
    ]  # fmt: skip
    write_rows(rows, file)


def _text(turns: Messages) -> str:
    return "\n\n".join(turn.content for turn in turns)
