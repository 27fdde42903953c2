"""Ratings of three and more policies that explain all their win rates at once."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.special import expit

from align.evals.statistics import Measure, percentiles, resampled

ELO = 400 / math.log(10)
"""Elo points of one unit of log-odds."""


def ratings(rates: Mapping[tuple[str, str], Measure], seed: int) -> dict[str, dict[str, float]]:
    """Bradley-Terry ratings in Elo points with mean 0, with intervals over the prompts that all pairs tell of.

    rates: (baseline, policy) -> the policy's win rate. Every pair is given one further tie, without which a policy that
    always wins would be infinitely good.
    """
    names = list(dict.fromkeys(name for pair in rates for name in pair))
    ids = list(next(iter(rates.values())).ids) if rates else []
    for rate in rates.values():
        known = set(rate.ids)
        ids = [id for id in ids if id in known]
    if len(ids) < 2:
        return {}
    table = np.zeros((len(ids), len(names), len(names)))
    for (baseline, policy), rate in rates.items():
        i, j = names.index(policy), names.index(baseline)
        table[:, i, j] = rate.of(ids).total
        table[:, j, i] = 1 - table[:, i, j]
    values = ELO * bradley_terry(_with_ties(table.sum(0)))
    sums = resampled(list(table.reshape(len(ids), -1).T), seed)
    drawn = ELO * bradley_terry(_with_ties(sums.reshape(-1, len(names), len(names))))
    columns = zip(names, values, *percentiles(drawn, len(ids)), strict=True)
    return {name: {"value": float(value), "low": float(low), "high": float(high)} for name, value, low, high in columns}


def bradley_terry(won: np.ndarray) -> np.ndarray:
    """(..., K) log-strengths with mean 0, the likeliest where i beats j with odds exp(s_i - s_j) (Biometrika 39, 1952).

    won: (..., K, K) how often the row's policy beat the column's; nobody may have won, or lost, everything.
    """
    games = won + np.swapaxes(won, -1, -2)
    strengths = np.zeros(won.shape[:-1])
    for _ in range(100):
        expected = expit(strengths[..., :, None] - strengths[..., None, :])
        gradient = (won - games * expected).sum(-1)
        weights = games * expected * (1 - expected)
        hessian = np.eye(won.shape[-1]) * weights.sum(-1)[..., None] - weights
        # The strengths' mean is free; adding a constant to the matrix keeps it at 0.
        step = np.linalg.solve(hessian + weights.mean((-1, -2), keepdims=True), gradient[..., None])[..., 0]
        strengths += np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-9:
            break
    return strengths - strengths.mean(-1, keepdims=True)


def _with_ties(won: np.ndarray) -> np.ndarray:
    return won + (1 - np.eye(won.shape[-1])) / 2
