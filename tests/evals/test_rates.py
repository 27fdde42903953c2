"""Rates and their tests, by formula and by statsmodels; in clusters, by simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats import contingency_tables

from align.evals.rates import design_effect, effective, mcnemar, paired_rates, wilson

CHANCE = np.random.default_rng(0)


def of(clusters, size):
    return np.repeat(np.arange(clusters), size)


def test_wilson_interval_by_the_formula():
    """50 of 100: (p + z^2/2n -+ z sqrt(p q / n + z^2 / 4 n^2)) / (1 + z^2 / n) with z = 1.959964."""
    right = np.r_[np.ones(50), np.zeros(50)]
    assert wilson(right) == pytest.approx((0.40383, 0.59617), abs=1e-5)
    assert wilson(right) == pytest.approx(tuple(binomtest(50, 100).proportion_ci(method="wilson")))
    assert wilson(right, np.arange(100)) == wilson(right)


def test_the_exact_test_is_statsmodels():
    gap = np.r_[np.ones(12), -np.ones(4), np.zeros(34)]
    theirs = contingency_tables.mcnemar([[18, 12], [4, 16]], exact=True)
    assert mcnemar(gap) == mcnemar(gap, np.arange(50)) == pytest.approx(theirs.pvalue)
    assert mcnemar(np.zeros(5)) == 1


def test_the_interval_of_clusters_by_hand():
    """20 pairs that say the same twice are 40 x 19 / 39 observations, times (1.95996 / 2.09302)^2 for so few clusters:
    Wilson's interval of 0.6 of 17.088."""
    right = np.repeat(np.r_[np.ones(12), np.zeros(8)], 2)
    n, z = 40 * 19 / 39 * (1.959964 / 2.093024) ** 2, 1.959964
    middle, half = 0.6 + z**2 / 2 / n, z * np.sqrt(0.6 * 0.4 / n + z**2 / 4 / n**2)
    expected = ((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n))
    assert wilson(right, of(20, 2)) == pytest.approx(expected, abs=1e-5)


def test_the_test_of_clusters_by_hand():
    """20 pairs that say the same twice, 12 of them for and 4 against: the design effect is 2 (20 / 19) / (40 / 39), so
    the statistic is 16 / sqrt(32 x 39 / 19) = 1.9742, of a t-distribution with 19 degrees of freedom."""
    gap = np.repeat(np.r_[np.ones(12), -np.ones(4), np.zeros(4)], 2)
    assert mcnemar(gap, of(20, 2)) == pytest.approx(0.0631, abs=1e-4)
    assert mcnemar(-gap, of(20, 2)) == mcnemar(gap, of(20, 2)) > mcnemar(gap)


def test_the_interval_of_paired_rates_by_hand():
    """(13 - 5) / 52 -+ 1.96 sqrt((13/52 + 5/52 - (8/52)^2) / 52)."""
    low, high = paired_rates(12, 4, 50)
    assert (low, high) == pytest.approx((0.153846 - 0.154348, 0.153846 + 0.154348), abs=1e-5)
    assert paired_rates(0, 0, 50)[1] == -paired_rates(0, 0, 50)[0] > 0.05, "no disagreement is no certainty"


def test_paired_rates_cover_at_least_as_often_as_they_say():
    """Truth: 0.7 against 0.5, right together on 0.45 of the prompts."""
    hits = []
    for _, win, loss, _ in CHANCE.multinomial(80, [0.45, 0.25, 0.05, 0.25], 3000):
        low, high = paired_rates(win, loss, 80)
        hits.append(low <= 0.2 <= high)
    assert 0.94 <= np.mean(hits) <= 0.97


def test_the_design_effect_of_equal_clusters_is_their_size_where_they_agree():
    """Kish: 1 + (m - 1) rho, with rho 1; sums of 4 x 5 turns of -1 and 1, and the two variances' n - 1."""
    pulls = np.repeat([1.0, -1, 1, -1], 5)
    assert design_effect(pulls, of(4, 5)) == pytest.approx(5 * (4 / 3) / (20 / 19))
    assert design_effect(pulls * 0, of(4, 5)) == 5, "nothing varies: one observation each"
    assert design_effect(pulls, np.tile(np.arange(5), 4)) == 1, "never less than alone"
    assert design_effect(pulls, np.arange(20)) == 1


def test_one_cluster_alone_tells_nothing():
    assert effective(np.zeros(9), of(1, 9)) == 0 and wilson(np.ones(9), of(1, 9)) == (0, 1)
    assert mcnemar(np.ones(9), of(1, 9)) == 1


def test_all_right_in_few_conversations_is_not_as_certain_as_in_many_prompts():
    assert wilson(np.ones(100), of(20, 5))[0] < wilson(np.ones(20))[0] < wilson(np.ones(100))[0]
    assert mcnemar(np.ones(100), of(20, 5)) > mcnemar(np.ones(100))


@pytest.mark.parametrize(("rate", "alike"), [(0.5, 0.4), (0.8, 1.0), (0.95, 0.1)])
def test_rates_of_clusters_are_covered(rate, alike):
    """20 clusters of 5; `alike` is the correlation within one: beta-binomial, or all the same."""
    hits = {True: [], False: []}
    for _ in range(1500):
        if alike < 1:
            chance = CHANCE.beta(rate * (1 / alike - 1), (1 - rate) * (1 / alike - 1), (20, 1))
        else:
            chance = (CHANCE.random((20, 1)) < rate).astype(float)
        right = (CHANCE.random((20, 5)) < chance).ravel().astype(float)
        for clustered, place in ((True, of(20, 5)), (False, None)):
            low, high = wilson(right, place)
            hits[clustered].append(low <= rate <= high)
    assert np.mean(hits[True]) >= 0.935 and np.mean(hits[False]) < (0.8 if alike >= 0.4 else 0.95)


@pytest.mark.parametrize("alike", [0.1, 0.5, 1.0])
def test_paired_rates_of_clusters_are_covered_and_false_alarms_rare(alike):
    """30 % of 200 prompts in 40 conversations differ, 15 % either way; `alike` of the conversations differ whole."""
    place, hits, alarms, naive = of(40, 5), [], [], []
    for _ in range(1000):
        drawn = [CHANCE.choice([1.0, -1.0, 0.0], (40, size), p=[0.15, 0.15, 0.7]) for size in (5, 1)]
        gap = np.where(CHANCE.random((40, 1)) < alike, drawn[1], drawn[0]).ravel()
        n = effective(gap - gap.mean(), place)
        low, high = paired_rates((gap > 0).sum() * n / 200, (gap < 0).sum() * n / 200, n)
        hits.append(low <= 0 <= high), alarms.append(mcnemar(gap, place) <= 0.05), naive.append(mcnemar(gap) <= 0.05)
    assert np.mean(hits) >= 0.94 and np.mean(alarms) <= 0.06
    assert alike < 0.5 or np.mean(naive) > 0.15
