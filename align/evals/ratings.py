"""Ratings of three and more policies that explain all their win rates at once.

A policy that always wins would be infinitely good, and drawing its prompts again and again says so each time. So every
pair is given half a win for each side, Jeffreys' prior of a rate, and that is drawn like the prompts: the posterior
bootstrap with prior observations (arXiv:1806.11544). Of two policies it gives Jeffreys' interval, in log-odds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.special import expit

from align.evals import statistics
from align.evals.statistics import CHUNK, Measure, percentiles

ELO = 400 / math.log(10)
"""Elo points of one unit of log-odds."""
PRIOR = 0.5
"""Wins of each side of a pair that nobody has seen."""


def ratings(rates: Mapping[tuple[str, str], Measure], seed: int) -> dict[str, dict[str, float]]:
    """Bradley-Terry ratings in Elo points with mean 0, with intervals over the prompts that all pairs tell of.

    rates: (baseline, policy) -> the policy's win rate.
    """
    names = list(dict.fromkeys(name for pair in rates for name in pair))
    ids = list(next(iter(rates.values())).ids) if rates else []
    for rate in rates.values():
        known = set(rate.ids)
        ids = [id for id in ids if id in known]
    shared = {pair: rate.of(ids) for pair, rate in rates.items()}
    units = next(iter(shared.values())).units if shared else 0
    if units < 2:
        return {}
    table = np.zeros((units, len(names), len(names)))
    for (baseline, policy), rate in shared.items():
        i, j = names.index(policy), names.index(baseline)
        won, games = rate.sums
        table[:, i, j], table[:, j, i] = won, games - won
    # An unseen win weighs as much as a prompt, and as a cluster where prompts come in those: it is drawn like one.
    prior = (1 - np.eye(len(names))) * len(ids) / units
    values = ELO * bradley_terry(table.sum(0) + PRIOR * (1 - np.eye(len(names))))
    low, high = percentiles(ELO * bradley_terry(_drawn(table, prior, seed)), units)
    columns = zip(names, values, low, high, strict=True)
    return {name: {"value": float(value), "low": float(low), "high": float(high)} for name, value, low, high in columns}


def bradley_terry(won: np.ndarray) -> np.ndarray:
    """(..., K) log-strengths with mean 0, the likeliest where i beats j with odds exp(s_i - s_j) (Biometrika 39, 1952).

    won: (..., K, K) how often the row's policy beat the column's; nobody may have won, or lost, everything.
    """
    lost = np.swapaxes(won, -1, -2)
    strengths = np.zeros(won.shape[:-1])
    for _ in range(100):
        ahead = strengths[..., :, None] - strengths[..., None, :]
        gradient = (won * expit(-ahead) - lost * expit(ahead)).sum(-1)
        weights = (won + lost) * expit(ahead) * expit(-ahead)
        hessian = np.eye(won.shape[-1]) * weights.sum(-1)[..., None] - weights
        # The strengths' mean is free; adding a constant to the matrix keeps it at 0.
        step = np.linalg.solve(hessian + weights.mean((-1, -2), keepdims=True), gradient[..., None])[..., 0]
        strengths += np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-9:
            break
    return strengths - strengths.mean(-1, keepdims=True)


def _drawn(table: np.ndarray, prior: np.ndarray, seed: int) -> np.ndarray:
    """(RESAMPLES, K, K) wins with each unit of the table and each unseen win weighed at random, 1 on average a unit."""
    chance = np.random.default_rng(seed)
    made = []
    for start in range(0, statistics.RESAMPLES, CHUNK):
        count = min(CHUNK, statistics.RESAMPLES - start)
        weights = chance.standard_exponential((count, len(table)))
        seen = (weights @ table.reshape(len(table), -1)).reshape(count, *prior.shape)
        made.append(seen + prior * chance.standard_gamma(PRIOR, seen.shape))
    return np.concatenate(made)
