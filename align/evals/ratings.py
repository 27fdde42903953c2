"""Ratings of three and more policies that explain all their win rates at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np
from scipy.special import expit

from align.evals.statistics import percentiles, resampled
from align.evals.wins import Scored, wins

ELO = 400 / math.log(10)
"""Elo points of one unit of log-odds."""


def ratings(replies: Mapping[str, dict[str, Scored]], seed: int) -> dict[str, dict[str, float]]:
    """Bradley-Terry ratings in Elo points with mean 0, with intervals over prompts that all policies answered.

    Every pair is given one further tie, without which a policy that always wins would be infinitely good.
    """
    ids = [id for id in next(iter(replies.values())) if all(id in theirs for theirs in replies.values())]
    if len(ids) < 2:
        return {}
    common = {name: {id: theirs[id] for id in ids} for name, theirs in replies.items()}
    names = list(replies)
    table = np.zeros((len(ids), len(names), len(names)))
    for i, j in combinations(range(len(names)), 2):
        table[:, i, j] = wins(common[names[i]], common[names[j]]).rate.total
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
