"""Whether probabilities mean what they say, of reward models (sigmoid of the margin of a pair) and of judges."""

from __future__ import annotations

import numpy as np

from align.evals.rates import wilson


def brier(probabilities: np.ndarray, outcomes: np.ndarray) -> float:
    """Mean squared distance of (n,) probabilities from what happened, 1 or 0: 0 is perfect, 0.25 says nothing."""
    return float(np.mean((probabilities - outcomes) ** 2))


def calibration_curve(
    probabilities: np.ndarray, outcomes: np.ndarray, bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean probability, share that happened, count) of each bin that is not empty; bins are equally wide."""
    place = np.minimum((np.asarray(probabilities) * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    held = counts > 0
    said, happened = (np.bincount(place, values, bins)[held] / counts[held] for values in (probabilities, outcomes))
    return said, happened, counts[held]


def calibration_error(probabilities: np.ndarray, outcomes: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: the mean distance between what was said and what happened, over bins, by count
    (arXiv:1706.04599, eq. 3)."""
    said, happened, counts = calibration_curve(probabilities, outcomes, bins)
    return float(np.average(np.abs(said - happened), weights=counts))


def reliability(probabilities: np.ndarray, outcomes: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """The calibration curve as rows: `said`, `happened` with its 95 % Wilson interval `low` to `high`, and `n`."""
    rows = []
    for said, happened, n in zip(*calibration_curve(probabilities, outcomes, bins), strict=True):
        low, high = wilson(np.full(int(n), happened))
        rows.append({"said": float(said), "happened": float(happened), "low": low, "high": high, "n": int(n)})
    return rows
