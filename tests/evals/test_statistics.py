"""Intervals and differences, by hand, by closed form and by scipy's own t-test."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from align.errors import CheckError
from align.evals.statistics import Difference, Measure, difference, interval, verdict, wilson

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


def test_intervals_cover_the_truth_as_often_as_they_say():
    hits = 0
    for trial in range(200):
        found = interval(means(CHANCE.exponential(1.0, 80)), seed=trial)
        hits += found.low <= 1.0 <= found.high
    assert 0.89 <= hits / 200 <= 0.98


def test_wilson_interval_by_the_formula():
    """50 of 100: (p + z^2/2n -+ z sqrt(p q / n + z^2 / 4 n^2)) / (1 + z^2 / n) with z = 1.959964."""
    assert wilson(np.r_[np.ones(50), np.zeros(50)]) == pytest.approx((0.40383, 0.59617), abs=1e-5)


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


@pytest.mark.parametrize(
    ("found", "better", "sentence"),
    [
        (Difference(0.21, 0.14, 0.28, 0.0002, 9, 1, 0, 300), "higher", "dpo beats sft: +0.21 [0.14, 0.28], n = 300"),
        (Difference(0.21, 0.14, 0.28, 0.0002, 9, 1, 0, 300), "lower", "dpo loses to sft: +0.21 [0.14, 0.28], n = 300"),
        (Difference(-0.2, -0.3, -0.1, 0.01, 0, 0, 9, 50), "lower", "dpo beats sft: -0.2 [-0.3, -0.1], n = 50"),
        (Difference(-0.2, -0.3, -0.1, 0.01, 0, 0, 9, 50), None, "dpo is lower than sft: -0.2 [-0.3, -0.1], n = 50"),
        (Difference(2000.4, 999.6, 3e3, 0.01, 9, 0, 0, 20), None, "dpo is higher than sft: +2000 [1000, 3000], n = 20"),
        (Difference(0.1, -0.1, 0.3, 0.3, 9, 1, 5, 120), "higher", "dpo and sft are not distinguishable at n = 120"),
        (
            Difference(0.5, 0.4, 0.6, 0.01, 4, 0, 0, 4), "higher",
            "dpo and sft are not distinguishable at n = 4; fewer than 10 prompts tell nothing",
        ),
    ],
)  # fmt: skip
def test_a_verdict_says_no_more_than_the_interval(found, better, sentence):
    assert verdict("politeness", better, "dpo", "sft", found) == f"politeness: {sentence}"
