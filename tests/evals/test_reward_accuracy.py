"""Expected numbers by hand, and by the closed form of the Wilson interval."""

import numpy as np
import pytest

from align.evals.reward_accuracy import Pairs, accuracy_report, interval


def pairs(leads, chosen_lengths, rejected_lengths) -> Pairs:
    leads = np.array(leads, float)
    return Pairs(leads, np.zeros_like(leads), np.array(chosen_lengths, float), np.array(rejected_lengths, float))


def test_accuracy_beside_a_ruler():
    """Leads +1 +2 -1 +1, one tie: (3 + 0.5) / 5. Shorter won in training: right on pairs 1 and 4, tie on 5."""
    report = accuracy_report(pairs([1, 2, -1, 1, 0], [3, 9, 9, 3, 5], [5, 5, 5, 5, 5]), longer_wins=0.4)
    assert report["test_accuracy"] == pytest.approx(0.7)
    assert report["length_accuracy"] == pytest.approx(0.5)
    assert report["length_p"] == 1.0  # they differ on one pair only
    assert report["test_pairs"] == 5


def test_a_ruler_in_disguise_is_no_better_than_the_ruler():
    random = np.random.default_rng(0)
    long, short = random.integers(10, 20, 300), random.integers(1, 10, 300)
    chosen, rejected = np.where(random.random(300) < 0.6, [long, short], [short, long])
    disguised = Pairs(chosen.astype(float), rejected.astype(float), chosen, rejected)
    report = accuracy_report(disguised, longer_wins=0.6)
    assert report["test_accuracy"] == report["length_accuracy"]
    assert report["length_p"] == 1.0
    assert report["length_correlation"] == pytest.approx(1.0)


def test_a_better_model_is_told_from_the_ruler():
    """Right on 80 of 100 where the ruler is right on 50, 40 of them shared: 40 against 10 discordant pairs."""
    leads = np.r_[np.ones(80), -np.ones(20)]
    ruler_right = np.r_[np.ones(40), np.zeros(40), np.ones(10), np.zeros(10)]
    report = accuracy_report(pairs(leads, 1 + ruler_right, np.full(100, 1.5)), longer_wins=0.9)
    assert report["length_accuracy"] == 0.5
    assert report["length_p"] == pytest.approx(2.386e-05, rel=1e-3)  # two-sided binomial(10; 50, 1/2)


def test_wilson_interval_by_the_formula():
    """50 of 100: (p + z^2/2n -+ z sqrt(p q / n + z^2 / 4 n^2)) / (1 + z^2 / n) with z = 1.959964."""
    assert interval(np.r_[np.ones(50), np.zeros(50)]) == pytest.approx((0.40383, 0.59617), abs=1e-5)
