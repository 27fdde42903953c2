"""What taking the best of n replies would give: the cheapest alignment there is, and a yardstick for the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby, product
from typing import Any

import numpy as np
from scipy.special import gammaln
from scipy.stats import rankdata

from align.evals.statistics import Measure, interval
from align.records import Sample, prompt_id
from align.rewards.base import Better


def best_of_weights(scores: np.ndarray, k: int) -> np.ndarray:
    """(n,) the chance of each of n replies to be the best of k drawn without replacement; sums to 1.

    The mean of any number over the replies, weighted so, is the unbiased estimate of that number at the best of k
    (order statistics; for scores of 0 and 1 it is pass@k, eq. 1 of arXiv:2107.03374). Equal scores share their chances.
    """
    n = len(scores)
    chance = np.zeros(n)
    places = np.arange(k, n + 1)
    chance[k - 1 :] = np.exp(_log_choose(places - 1, k - 1) - _log_choose(np.array(n), k))
    order = np.argsort(scores, kind="stable")
    groups = rankdata(scores, method="dense") - 1
    of_group = np.bincount(groups[order], chance) / np.bincount(groups)
    return of_group[groups]


def kl_bound(n: int) -> float:
    """Upper bound on the KL divergence of best-of-n from its policy, in nats a reply: log n - (n - 1) / n
    (arXiv:2401.01879)."""
    return math.log(n) - (n - 1) / n


def best(samples: Sequence[Sample], reward: str, better: Better) -> list[Sample]:
    """The reply to each prompt that the reward likes best, the first of equals; none where it scored no reply."""
    sign = -1 if better == "lower" else 1
    scored = (s for s in samples if reward in s.scores)
    return [max(group, key=lambda s: sign * s.scores[reward]) for _, group in groupby(scored, key=lambda s: s.prompt)]


def curve(
    samples: Sequence[Sample],
    rewards: Sequence[str],
    better: Better,
    sizes: Sequence[int],
    seed: int,
    clusters: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """One row for each size and reward: the value of the reply that the first reward likes best among so many.

    better: which scores of the first reward are good. All rows are about the same prompts, those with replies enough
    for the largest size; of them a reward counts on those of which it scored every reply.
    """
    groups = {prompt_id(k): list(group) for k, group in groupby(samples, key=lambda sample: sample.prompt)}
    by_prompt = {id: replies for id, replies in groups.items() if len(replies) >= max(sizes)}
    tokens = float(np.mean([sample.tokens for sample in samples]))
    rows = []
    for n, reward in product(sizes, rewards):
        found = {id: _best(replies, rewards[0], reward, better, n) for id, replies in by_prompt.items()}
        values = {id: value for id, value in found.items() if value is not None}
        measure = Measure.of_means(tuple(values), np.array(list(values.values()))).within(clusters or {})
        if measure.units < 2:
            continue
        value = interval(measure, seed)
        kl = kl_bound(n)
        rows.append({
            "n": n, "metric": reward, "value": value.value, "low": value.low, "high": value.high,
            "kl": kl, "kl_per_token": kl / tokens if tokens else None,
        })  # fmt: skip
    return rows


def _best(replies: Sequence[Sample], first: str, reward: str, better: Better, n: int) -> float | None:
    """A reward's expected value at the best of n; None where a score is missing."""
    if any(first not in s.scores or reward not in s.scores for s in replies):
        return None
    sign = -1 if better == "lower" else 1
    liked, value = (np.array([s.scores[name] for s in replies], float) for name in (first, reward))
    return float(best_of_weights(sign * liked, n) @ value)


def _log_choose(n: np.ndarray, k: int) -> np.ndarray:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
