"""Power against the normal approximation, statsmodels' own power curve, and simulation; Holm by hand."""

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp

from align.evals.power import detectable, holm, needed, worthwhile
from align.evals.statistics import Measure


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.04 times 3, 2, 1; never below the one before."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


def test_what_is_detectable_follows_the_normal_approximation_for_many_prompts():
    z = norm.ppf(0.975) + norm.ppf(0.8)  # 2.8016
    assert detectable(2.0, 10_000) == pytest.approx(z * 2 / 100, rel=1e-3)
    of_ten = norm.ppf(1 - 0.025 / 10) + norm.ppf(0.8)
    assert detectable(2.0, 10_000, pairs=10) == pytest.approx(of_ten * 2 / 100, rel=1e-3)
    assert detectable(0.0, 100) is None


def test_prompts_needed_by_cohens_table():
    """Two-sided 5 %, 80 % power, paired: 34 pairs for d = 0.5, 199 for 0.2 (Cohen 1988, by G*Power)."""
    assert (needed(0.5, 1.0), needed(0.2, 1.0), needed(0.1, 0.5)) == (34, 199, 199)
    assert needed(50.0, 1.0) == 10, "fewer are never enough"
    assert needed(0.1, 0.0) is None


def test_the_power_is_what_it_says():
    gaps = np.random.default_rng(0).normal(detectable(1.5, 30), 1.5, (20_000, 30))
    found = ttest_1samp(gaps, 0, axis=1).pvalue <= 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_what_is_worth_finding():
    def measure(*values):
        return Measure.of_means(tuple(map(str, range(len(values)))), np.array(values, float))

    assert worthwhile([measure(0, 1)], share=True) == 0.05
    assert worthwhile([measure(0, 4), measure(0, 2)], share=False) == 0.3  # sqrt((4 + 1) / 2) / 5 = 0.316
    assert worthwhile([measure(3, 3)], share=False) is None
