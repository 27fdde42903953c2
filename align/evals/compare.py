"""Comparisons: which policy is better by which metric, and how sure that is.

`comparison.json`; sections from `win_rates` on are there where there is something to say:

    policies     name -> metric -> {value, low, high, n, clusters}; `clusters` is how many conversations, or whatever
                 else `align.evals.clusters` finds, the n prompts belong to, here and below; null where all stand alone
    pairs        [{metric, policy, baseline, difference, low, high, p, win, tie, loss, n, spread, test, error,
                 clusters, effect, p_holm, detectable, needed, sure}], each later policy against each earlier one, on
                 the prompts that say something of both. `spread` is the standard deviation of the prompts' differences,
                 `error` the standard error of their mean, by clusters, `effect` the difference divided by `spread`
                 (Cohen's d_z, null where that is 0), `test` "bootstrap" or "mcnemar", `p_holm` is `p` after Holm's
                 procedure over all pairs of that metric, `detectable` the smallest difference that n prompts find with
                 80 % power among so many pairs, `needed` {difference, prompts} how many prompts find one that is worth
                 it, or null; `sure` whether the interval leaves out 0 and p_holm is at most 0.05
    verdicts     sentences, derived from the pairs, one each; then those of judges, derived from their win rates
    notes        sentences about what is not compared, and why
    better       metric -> "higher", "lower" or null
    settings     what all policies shared: decoding, seed, prompts, base, templates
    win_rates    [{metric, policy, baseline, rate, low, high, n, clusters, controlled}], one for each pair and each
                 reward with a better side: how often the policy's reply is the better one, ties half; `controlled`
                 {rate, low, high} is what is left at equal length, or null
    ratings      metric -> policy -> {value, low, high}: Bradley-Terry ratings of three and more policies, in Elo points
                 (400 points are odds of 10), mean 0
    judges       name -> {pairs, equal, withheld, unread, cut, refused, position_bias, agreement_of_orders, length,
                 self, human} of judges, whose win rates, ratings and verdicts stand among the others under their names.
                 Of `pairs` of replies that differ (`equal` ones are ties, and of `withheld` ones a server kept a reply
                 back) `unread` count for nothing; `cut` thoughts ended at the token limit; `refused` questions the
                 judge's server declined. `position_bias` (the mean probability of the first place, minus a half),
                 `agreement_of_orders` (share of pairs with one opinion in both orders) and `length` (what the longer
                 reply wins) are {value, low, high, n} or null; `self` is the contestant that judges, or null; `human`
                 {kappa, low, high, same, n, clusters} its agreement with people, or null
    best_of      policy -> [{n, metric, value, low, high, kl, kl_per_token}]: each reward of the reply that the first
                 reward likes best among n; `kl` is an upper bound on the distance to the policy itself in nats a reply
    brittleness  policy -> transformation -> metric -> {difference, low, high, n}: how far a score moves where the
                 prompts are transformed, new minus old
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import combinations
from math import exp, sqrt
from typing import Any

from align.evals import power
from align.evals.statistics import Difference, Interval, Measure, difference, interval
from align.evals.verdicts import Standing, verdict
from align.rewards.base import Better
from align.stage import seed_of

Measures = Mapping[str, Mapping[str, Measure]]
"""policy -> metric -> measure, in the order in which they are shown."""

PER_TOKEN = ("tokens", "nll")
"""Metrics that count tokens, which are other pieces of text in another tokenizer."""


def comparison(
    measures: Measures, better: Mapping[str, Better], settings: dict[str, Any], seed: int,
    tokenizers: Mapping[str, str] | None = None, worth: Mapping[str, float] | None = None, notes: Iterable[str] = (),
    clusters: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The first six sections of comparison.json.

    tokenizers: policy -> what names its tokenizer; none means one for all. worth: metric -> a difference that people
    would care about; `power.worthwhile` says what it is where nobody does. notes: what is known already.
    clusters: prompt -> what it belongs to, where not all stand alone.
    """
    held = {name: {m: v.within(clusters or {}) for m, v in found.items()} for name, found in measures.items()}
    known = {name: {m: v for m, v in found.items() if v.units > 1} for name, found in held.items()}
    notes = list(notes) + [
        f"{metric} of {name} is not shown: one prompt alone, or one cluster of them, has no interval"
        for name, found in measures.items() for metric in found if metric not in known[name]
    ]  # fmt: skip
    shares, order = _shares(known), dict.fromkeys(metric for found in known.values() for metric in found)
    policies: dict[str, dict[str, Any]] = {name: {} for name in known}
    pairs, verdicts = [], []
    for metric in order:  # all about one metric at a time, for its draws of prompts serve every policy and pair
        of_metric = {name: found[metric] for name, found in known.items() if metric in found}
        drawn = seed_of(seed, metric)
        for name, measure in of_metric.items():
            policies[name] |= _values(metric, interval(measure, drawn, metric in shares))
        matters = (worth or {}).get(metric) or power.worthwhile(list(of_metric.values()), metric in shares)
        found, said = _differences(metric, of_metric, tokenizers, drawn)
        notes += said
        for (baseline, policy), gap, standing in _standings(found, matters):
            pairs.append({"metric": metric, "policy": policy, "baseline": baseline, **_pair(gap, standing)})
            if better.get(metric) is not None:
                verdicts.append(verdict(metric, better[metric], policy, baseline, gap, standing))
    return {
        "policies": policies,
        "pairs": pairs,
        "verdicts": verdicts,
        "notes": notes,
        "better": {metric: better.get(metric) for values in policies.values() for metric in values},
        "settings": settings,
    }


def _values(metric: str, found: Interval) -> dict[str, dict[str, float]]:
    """The metric's value with its interval, and that of perplexity beside nll, which decides it."""
    values = {metric: asdict(found)}
    if metric == "nll":
        values["perplexity"] = {k: v if k in ("n", "clusters") else exp(v) for k, v in values["nll"].items()}
    return values


def _shares(measures: Measures) -> set[str]:
    """The metrics that are rates: no prompt of any policy has a value outside of 0 to 1."""
    rates: dict[str, bool] = {}
    for metric, measure in (pair for found in measures.values() for pair in found.items()):
        rates[metric] = rates.get(metric, True) and measure.is_share
    return {metric for metric, is_rate in rates.items() if is_rate}


def _differences(
    metric: str, measures: Mapping[str, Measure], tokenizers: Mapping[str, str] | None, seed: int
) -> tuple[dict[tuple[str, str], Difference], list[str]]:
    """The paired difference of each later policy to each earlier one, and what is to be said of prompts left out."""
    made, notes = {}, []
    counted_by = {name: tokenizers[name] for name in measures} if tokenizers and metric in PER_TOKEN else {}
    if len(kinds := dict.fromkeys(counted_by.values())) > 1:
        groups = [", ".join(name for name in measures if counted_by[name] == kind) for kind in kinds]
        notes.append(f"{metric} is compared only between policies with the same tokenizer: {' | '.join(groups)}")
    for baseline, policy in combinations(measures, 2):
        if counted_by and counted_by[policy] != counted_by[baseline]:
            continue
        found, note = paired(measures[policy], measures[baseline], seed)
        notes += [f"{metric} of {policy} and {baseline}: {note}"] * bool(note)
        if found is not None:
            made[baseline, policy] = found
    return made, notes


def _standings(
    found: Mapping[tuple[str, str], Difference], worth: float | None
) -> Iterable[tuple[tuple[str, str], Difference, Standing]]:
    """Every pair of one metric with what it is worth among all of them."""
    adjusted = power.holm([gap.p for gap in found.values()])
    for (names, gap), p_holm in zip(found.items(), adjusted, strict=True):
        yield names, gap, Standing(p_holm, len(found), worth, power.prompts_needed(gap, worth, len(found)))


def _pair(found: Difference, standing: Standing) -> dict[str, Any]:
    needed = {"difference": standing.worth, "prompts": standing.needed} if standing.needed else None
    return asdict(found) | {
        "effect": found.effect,
        "p_holm": standing.p_holm,
        "detectable": power.detectable(found.error * sqrt(found.units), found.units, standing.pairs),
        "needed": needed,
        "sure": standing.sure(found),
    }


def paired(policy: Measure, baseline: Measure, seed: int) -> tuple[Difference | None, str]:
    """The difference on the prompts that both say something about, and what is to be said of the others."""
    theirs = set(baseline.ids)
    shared = [id for id in policy.ids if id in theirs]
    apart = len(theirs.symmetric_difference(policy.ids))
    if len(shared) < 2 or policy.of(shared).units < 2:
        return None, f"not compared: {len(shared)} prompts have a value of both, {apart} of one only"
    found = difference(policy.of(shared), baseline.of(shared), seed)
    if not apart:
        return found, ""
    return found, f"compared on the {len(shared)} prompts that have a value of both; {apart} have that of one only"
