"""Calibration by hand, and of forecasts that are right by construction."""

import numpy as np
import pytest

from align.evals.calibration import brier, calibration_curve, calibration_error, reliability

SAID, HAPPENED = np.array([0.9, 0.8, 0.85, 0.2, 1.0]), np.array([1.0, 1, 0, 0, 1])


def test_by_hand():
    """Two bins: 0.2 against 0, one row; 0.8875 against 3 / 4, four rows."""
    said, happened, counts = calibration_curve(SAID, HAPPENED, bins=2)
    assert said == pytest.approx([0.2, 0.8875]) and happened == pytest.approx([0, 0.75]) and counts.tolist() == [1, 4]
    assert calibration_error(SAID, HAPPENED, bins=2) == pytest.approx((0.2 + 4 * 0.1375) / 5)
    assert brier(SAID, HAPPENED) == pytest.approx((0.01 + 0.04 + 0.7225 + 0.04 + 0) / 5)


def test_an_honest_forecast_has_no_error_and_a_boastful_one_has():
    chance = np.random.default_rng(0)
    true = chance.uniform(0.5, 1, 50_000)
    happened = (chance.random(50_000) < true).astype(float)
    assert calibration_error(true, happened) < 0.01
    assert calibration_error(np.ones(50_000), happened) == pytest.approx(0.25, abs=0.01)
    assert brier(np.full(50_000, 0.5), happened) == 0.25


def test_each_bin_has_its_wilson_interval():
    """3 of 4: (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4 n^2)) / (1 + z^2 / n) with z = 1.96."""
    low, high = reliability(SAID, HAPPENED, bins=2)
    assert low == {"said": pytest.approx(0.2), "happened": 0, "low": 0, "high": pytest.approx(0.7935, abs=1e-4), "n": 1}
    assert (high["happened"], high["n"]) == (0.75, 4)
    assert (high["low"], high["high"]) == pytest.approx((0.3006, 0.9544), abs=1e-4)
