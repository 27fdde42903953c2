"""Expected numbers by hand, and by the closed form of the Wilson interval."""

import numpy as np
import pytest

from align.evals.reward_accuracy import accuracy_report


def columns(chosen, rejected) -> np.ndarray:
    return np.stack(np.broadcast_arrays(np.array(chosen, float), np.array(rejected, float)), 1)


SHORTER_WON, LONGER_WON = columns([1, 2, 9], [2, 3, 8]), columns([2, 3, 8], [1, 2, 9])


def test_accuracy_beside_a_ruler():
    """Leads +1 +2 -1 +1, one tie: (3 + 0.5) / 5. The shorter reply is right on pairs 1 and 4, a tie on 5."""
    report = accuracy_report(columns([1, 2, -1, 1, 0], 0), columns([3, 9, 9, 3, 5], 5), SHORTER_WON)
    assert report["test_accuracy"] == pytest.approx(0.7)
    assert report["length_accuracy"] == pytest.approx(0.5)
    assert report["length_p"] == 1.0  # they differ on one pair only
    assert (report["test_pairs"], report["longer_wins"]) == (5, pytest.approx(1 / 3))


def test_a_ruler_in_disguise_is_no_better_than_the_ruler():
    random = np.random.default_rng(0)
    long, short = random.integers(10, 20, 300), random.integers(1, 10, 300)
    lengths = np.where(random.random((300, 1)) < 0.6, columns(long, short), columns(short, long))
    report = accuracy_report(lengths, lengths, LONGER_WON)
    assert report["test_accuracy"] == report["length_accuracy"]
    assert report["length_p"] == 1.0
    assert report["length_correlation"] == pytest.approx(1.0)


def test_a_better_model_is_told_from_the_ruler():
    """Right on 80 of 100 where the ruler is right on 50, 40 of them shared: 40 against 10 discordant pairs."""
    leads = np.r_[np.ones(80), -np.ones(20)]
    ruler_right = np.r_[np.ones(40), np.zeros(40), np.ones(10), np.zeros(10)]
    report = accuracy_report(columns(leads, 0), columns(1 + ruler_right, 1.5), LONGER_WON)
    assert report["length_accuracy"] == 0.5
    assert report["length_p"] == pytest.approx(2.386e-05, rel=1e-3)  # two-sided binomial(10; 50, 1/2)


def test_scores_are_probabilities_by_their_margin():
    """sigmoid(log 4) = 0.8, right on 4 of 5: calibrated. Brier 0.8 (0.2)^2 + 0.2 (0.8)^2."""
    lead = np.log(4) * np.array([1, 1, 1, 1, -1.0])
    report = accuracy_report(columns(lead, 0), columns(np.ones(5), 2), LONGER_WON)
    assert report["calibration_error"] == pytest.approx(0, abs=1e-12)
    assert report["brier"] == pytest.approx(0.16)
