"""How good a reward model is on pairs that it has not seen, and whether it is more than a ruler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from align.evals.calibration import brier, calibration_error, reliability
from align.evals.rates import mcnemar, wilson

Floats = NDArray[np.float64]


def accuracy_report(
    scores: Floats, lengths: Floats, training_lengths: Floats, place: NDArray[np.int_] | None = None
) -> dict[str, float]:  # fmt: skip
    """Accuracy on held-out pairs with its 95 % interval, beside that of a rule that knows lengths only.

    scores, lengths: (pairs, 2) of the chosen and the rejected reply, held out. training_lengths: (pairs, 2), to which
    the rule is fitted: it prefers the longer reply if that was chosen more often there, else the shorter one.
    `length_p` is the p-value of an exact McNemar test: how likely so different counts of right answers are if the model
    knew no more than lengths. `brier` and `calibration_error` compare the probabilities that scores stand for with what
    was chosen. Ties count half. place: (pairs,) the number of each pair's cluster (`align.evals.clusters`).
    """
    right, longer = right_of(scores), float(right_of(training_lengths).mean())
    ruler = right_of(lengths if longer > 0.5 else -lengths)
    confidence = _confidence(scores)
    low, high = wilson(right, place)
    ruler_low, ruler_high = wilson(ruler, place)
    return {
        "test_pairs": float(len(right)),
        "test_accuracy": float(right.mean()),
        "test_accuracy_low": low,
        "test_accuracy_high": high,
        "longer_wins": longer,
        "length_accuracy": float(ruler.mean()),
        "length_accuracy_low": ruler_low,
        "length_accuracy_high": ruler_high,
        "length_p": mcnemar(right - ruler, place),
        "length_correlation": correlation(scores.ravel(), lengths.ravel()),
        "score_spread": float(scores.std()),
        "brier": brier(confidence, right),
        "calibration_error": calibration_error(confidence, right),
    }


def calibration(scores: Floats) -> list[dict[str, float]]:
    """The calibration curve of held-out pairs, as `align.evals.calibration.reliability` has it."""
    return reliability(_confidence(scores), right_of(scores))


def _confidence(scores: Floats) -> Floats:
    """(pairs,) what Bradley-Terry says of the reply that is preferred."""
    return expit(np.abs(scores[:, 0] - scores[:, 1]))


def right_of(pairs: Floats) -> Floats:
    """(pairs,): 1 where the first of two numbers is the larger, 0 where the second is, a half where they are equal."""
    lead = pairs[:, 0] - pairs[:, 1]
    return np.where(lead > 0, 1.0, np.where(lead < 0, 0.0, 0.5))


def correlation(scores: Floats, lengths: Floats) -> float:
    """Spearman's rank correlation; 0 where one side does not vary."""
    if not np.ptp(scores) or not np.ptp(lengths):
        return 0.0
    found: Any = stats.spearmanr(scores, lengths)
    return float(found.statistic)
