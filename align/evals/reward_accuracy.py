"""How good a reward model is on pairs that it has not seen, and whether it is more than a ruler."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """What a reward model and a ruler see of pairs; each array is (pairs,)."""

    chosen: Floats
    """Scores of the chosen replies."""
    rejected: Floats
    chosen_length: Floats
    """Tokens of the chosen replies."""
    rejected_length: Floats


def accuracy_report(held_out: Pairs, longer_wins: float) -> dict[str, float]:
    """Accuracy on held-out pairs with its 95 % interval, beside that of a rule that knows lengths only.

    longer_wins: the share of the training pairs whose chosen reply is the longer one, ties left out. The rule prefers
    the longer reply where that is above 0.5, else the shorter one. `length_p` is the p-value of an exact McNemar test:
    how likely so different counts of right answers are if the model knew no more than lengths. Ties count half.
    """
    right = _right(held_out.chosen - held_out.rejected)
    sign = 1.0 if longer_wins > 0.5 else -1.0
    ruler = _right(sign * (held_out.chosen_length - held_out.rejected_length))
    low, high = interval(right)
    ruler_low, ruler_high = interval(ruler)
    scores = np.concatenate([held_out.chosen, held_out.rejected])
    lengths = np.concatenate([held_out.chosen_length, held_out.rejected_length])
    return {
        "test_pairs": float(len(right)),
        "test_accuracy": float(right.mean()),
        "test_accuracy_low": low,
        "test_accuracy_high": high,
        "length_accuracy": float(ruler.mean()),
        "length_accuracy_low": ruler_low,
        "length_accuracy_high": ruler_high,
        "length_p": _mcnemar(right, ruler),
        "length_correlation": _correlation(scores, lengths),
        "score_spread": float(scores.std()),
    }


def interval(right: Floats) -> tuple[float, float]:
    """95 % Wilson interval of a share; `right` is 1, 0 or a half a pair."""
    found = stats.binomtest(round(float(right.sum())), len(right)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def _right(lead: Floats) -> Floats:
    return np.where(lead > 0, 1.0, np.where(lead < 0, 0.0, 0.5))


def _mcnemar(one: Floats, other: Floats) -> float:
    better, worse = int((one > other).sum()), int((one < other).sum())
    return float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0


def _correlation(scores: Floats, lengths: Floats) -> float:
    found = stats.spearmanr(scores, lengths).statistic if np.ptp(scores) and np.ptp(lengths) else 0.0
    return 0.0 if math.isnan(found) else float(found)
