"""Intervals and differences, by hand, by closed form and by scipy's own t-test."""

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import norm, t, ttest_1samp, ttest_rel
from statsmodels.stats import contingency_tables

from align.errors import CheckError
from align.evals import statistics
from align.evals.statistics import Measure, difference, interval, p_value, percentiles, resampled

CHANCE = np.random.default_rng(0)


def ids(n):
    return tuple(map(str, range(n)))


def means(values):
    return Measure.of_means(ids(len(values)), np.array(values))


def test_the_interval_of_a_mean_is_the_closed_form_for_many_prompts():
    values = CHANCE.normal(2, 3, 400)
    found = interval(means(values), seed=0)
    error = values.std() / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((found.value - 1.96 * error, found.value + 1.96 * error), abs=0.02)
    assert found.n == 400


def test_the_interval_of_a_ratio_is_that_of_the_delta_method():
    count = CHANCE.integers(1, 100, 500).astype(float)
    total = count * 0.3 + CHANCE.normal(0, 4, 500)
    found = interval(Measure(ids(500), total, count), seed=0)
    ratio = total.sum() / count.sum()
    error = (total - ratio * count).std() / count.mean() / np.sqrt(500)
    assert found.value == pytest.approx(ratio)
    assert (found.low, found.high) == pytest.approx((ratio - 1.96 * error, ratio + 1.96 * error), rel=0.02)


def cover(values, truth):
    """The share of intervals that contain the true mean; `values` is (trials, prompts)."""
    low, high = percentiles(resampled(list(values), 0) / values.shape[1], values.shape[1])
    return np.mean((low <= truth) & (truth <= high))


def test_intervals_cover_the_truth_as_often_as_they_say():
    """3000 trials have a standard error of 0.4 points."""
    assert cover(CHANCE.normal(0, 1, (3000, 40)), 0) == pytest.approx(0.95, abs=0.015)
    assert cover(CHANCE.exponential(1, (2000, 150)), 1) == pytest.approx(0.95, abs=0.015)


def test_replies_to_one_prompt_are_one_observation():
    """Eight replies share their prompt's difficulty: a prompt counts once, for there are not 320 of them."""
    replies = CHANCE.normal(0, 1, (2000, 40, 1)) + CHANCE.normal(0, 0.5, (2000, 40, 8))
    assert cover(replies.mean(-1), 0) == pytest.approx(0.95, abs=0.015)


def test_false_alarms_are_as_rare_as_p_says():
    for prompts in (20, 60):
        gaps = CHANCE.normal(0, 1, (3000, prompts))
        p = p_value(resampled(list(gaps), 0) / prompts, prompts)
        assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.015)
        assert p[:300] == pytest.approx(ttest_1samp(gaps[:300], 0, axis=1).pvalue, abs=0.06)


def test_drawing_once_is_what_scipy_does():
    values = CHANCE.gamma(2, 1, 60)
    theirs = scipy_bootstrap((values,), np.mean, method="percentile", n_resamples=9999, rng=1)
    assert np.std(resampled((values,), 0) / 60) == pytest.approx(theirs.standard_error, rel=0.03)
    level = 1 - 2 * norm.sf(np.sqrt(60 / 59) * t.ppf(0.975, 59))
    wider = scipy_bootstrap((values,), np.mean, method="percentile", n_resamples=9999, rng=1, confidence_level=level)
    found = interval(means(values), 0)
    assert (found.low, found.high) == pytest.approx(tuple(wider.confidence_interval), abs=0.02)


def test_many_prompts_are_drawn_anew_and_give_the_same(monkeypatch):
    values = means(CHANCE.normal(0, 1, 30))
    kept = interval(values, 5)
    monkeypatch.setattr(statistics, "KEPT", 10)
    assert interval(values, 5) == kept


def test_mcnemar_is_statsmodels():
    policy, baseline = means(np.r_[np.ones(30), np.zeros(20)]), means(np.r_[np.zeros(12), np.ones(22), np.zeros(16)])
    found = difference(policy, baseline, seed=0)
    theirs = contingency_tables.mcnemar([[18, 12], [4, 16]], exact=True)
    assert (found.test, found.win, found.loss, found.tie) == ("mcnemar", 12, 4, 34)
    assert found.p == pytest.approx(theirs.pvalue) and theirs.pvalue == pytest.approx(0.0768, abs=1e-4)


def test_the_effect_is_the_difference_in_units_of_its_spread():
    found = difference(means([1, 3, 2, 6.0]), means([0, 1, 3, 2.0]), seed=0)
    assert (found.spread, found.effect) == pytest.approx((2.081666, 1.5 / 2.081666))  # 1, 2, -1, 4
    assert difference(means([1, 2, 3.0]), means([0, 1, 2.0]), seed=0).effect is None


def test_the_spread_of_ratios_gives_their_standard_error():
    count = CHANCE.integers(1, 100, 400).astype(float)
    policy, baseline = (Measure(ids(400), count * 0.3 + CHANCE.normal(0, 4, 400), count) for _ in range(2))
    found = difference(policy, baseline, seed=0)
    assert 1.96 * found.spread / np.sqrt(400) == pytest.approx((found.high - found.low) / 2, rel=0.05)


def test_a_rate_of_one_is_not_certain():
    """By the formula with p = 1: the interval begins at 1 / (1 + z^2 / n)."""
    found = interval(means(np.ones(100)), seed=0, share=True)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1 / (1 + 1.959964**2 / 100), 1), abs=1e-6)
    assert interval(means(np.ones(100)), seed=0).low == 1, "a mean that is no rate is drawn again and again"


def test_pairing_finds_a_difference_that_unpaired_prompts_would_hide():
    difficulty = CHANCE.normal(0, 10, 100)
    baseline, policy = difficulty, difficulty + CHANCE.normal(0.5, 1, 100)
    found = difference(means(policy), means(baseline), seed=0)
    assert found.sure and 0.2 < found.difference < 0.8
    assert found.p == pytest.approx(ttest_rel(policy, baseline).pvalue, abs=2e-3)
    assert found.difference < interval(means(policy), 0).high - interval(means(policy), 0).low


@pytest.mark.parametrize("shift", [0.05, 0.15, 0.2])
def test_p_agrees_with_the_t_test_and_with_the_interval(shift):
    gap = np.random.default_rng(1).normal(0, 1, 150)
    gap += shift - gap.mean()
    found = difference(means(gap), means(np.zeros(150)), seed=0)
    assert found.p == pytest.approx(ttest_rel(gap, np.zeros(150)).pvalue, abs=0.02)
    assert (found.p < 0.05) == found.sure


def test_a_difference_of_ratios_is_resampled_jointly():
    count = CHANCE.integers(5, 50, 300).astype(float)
    noise = CHANCE.normal(0, 20, 300)
    baseline, policy = Measure(ids(300), noise, count), Measure(ids(300), noise + 0.1 * count, count)
    found = difference(policy, baseline, seed=0)
    assert (found.difference, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1)), "shared noise cancels"
    assert (found.win, found.tie, found.loss) == (300, 0, 0)


def test_wins_ties_and_losses():
    found = difference(means([1, 1, 0, 2, 5.0]), means([0, 1, 1, 1, 1.0]), seed=0)
    assert (found.win, found.tie, found.loss, found.n) == (3, 1, 1, 5)
    same = difference(means([1.0, 2, 3]), means([1.0, 2, 3]), seed=0)
    assert (same.difference, same.low, same.high, same.p, same.tie) == (0, 0, 0, 1, 3)


def test_results_depend_on_the_seed_only():
    values = means(CHANCE.normal(0, 1, 30))
    assert interval(values, 1) == interval(values, 1) != interval(values, 2)


def test_other_prompts_are_an_error():
    with pytest.raises(CheckError, match="2 are on one side only"):
        difference(means([1.0, 2]), Measure.of_means(("0", "5"), np.array([1.0, 2])), seed=0)
    with pytest.raises(CheckError, match="same order"):
        difference(means([1.0, 2]), Measure.of_means(("1", "0"), np.array([1.0, 2])), seed=0)
    with pytest.raises(CheckError, match="at least 2 prompts"):
        interval(means([1.0]), seed=0)


def test_prompts_where_nothing_was_counted_weigh_nothing():
    measure = Measure(ids(3), np.array([2.0, 0, 4]), np.array([1.0, 0, 2]))
    assert measure.value == interval(measure, 0).value == 2
    assert measure.by_prompt.tolist() == [2, 0, 2]
