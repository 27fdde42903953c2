"""Agreement: against published examples and statsmodels."""

import math

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa

from align.errors import CheckError
from align.evals.agreement import agreement, cohen_kappa, krippendorff_alpha, with_labels
from align.records import Message, Rated
from align.rewards.base import Rule

KRIPPENDORFF = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
"""Four observers and twelve units: example C of "Computing Krippendorff's Alpha-Reliability" (2011)."""


def observers():
    rows = [line.split() for line in KRIPPENDORFF.split("\n") if line]
    return {
        str(i): {str(unit): int(said) for unit, said in enumerate(row) if said != "."} for i, row in enumerate(rows)
    }


def test_alpha_of_krippendorffs_own_example():
    found = agreement(observers())
    assert found is not None and found.value is not None
    assert round(found.value, 3) == 0.743
    assert (found.measure, found.n) == ("Krippendorff's alpha", 11)


def test_alpha_is_fleiss_kappa_with_the_correction_for_small_samples():
    table = np.random.default_rng(0).multinomial(3, [0.5, 0.3, 0.2], size=40)
    alpha = krippendorff_alpha([np.repeat(np.arange(3), row).tolist() for row in table])
    n = table.sum()
    assert alpha == pytest.approx(1 - (1 - fleiss_kappa(table)) * (n - 1) / n)


def test_kappa_by_hand():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, by chance 0.5.
    first = [1] * 25 + [0] * 25
    second = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    kappa, low, high = cohen_kappa(first, second, np.arange(50))
    assert kappa == pytest.approx(0.4)
    # They differ on 0.3; Wilson's interval for 15 of 50 is 0.191 to 0.438, and chance leaves 0.5.
    assert (low, high) == pytest.approx((1 - 0.4375 / 0.5, 1 - 0.1910 / 0.5), abs=1e-3)


def test_the_interval_of_many_that_stand_alone_is_that_of_statsmodels():
    table = np.array([[300, 60, 20], [50, 200, 40], [10, 50, 270]])
    said = np.repeat(np.indices((3, 3)).reshape(2, -1), table.ravel(), axis=1)
    theirs = cohens_kappa(table)
    assert cohen_kappa(*said.tolist(), np.arange(1000)) == pytest.approx(
        (theirs.kappa, theirs.kappa_low, theirs.kappa_upp), abs=2e-3
    )


def test_perfect_agreement_and_one_sided_raters_are_not_certain():
    """Wilson: of 20 without a difference up to z^2 / (20 + z^2) may differ, and chance leaves a half."""
    half = [0] * 10 + [1] * 10
    assert cohen_kappa(half, half, np.arange(20)) == pytest.approx((1, 1 - 3.8415 / 23.8415 / 0.5, 1), abs=1e-4)
    kappa, low, high = cohen_kappa([1] * 20, half, np.arange(20))
    assert kappa == pytest.approx(0) and low == pytest.approx(-high) and high > 0.3
    assert cohen_kappa([0, 1], [1, 0], np.arange(2))[0] == -1
    assert cohen_kappa(half, half, np.zeros(20, int)) == (1, -1, 1), "one cluster alone tells nothing"


@pytest.mark.parametrize(("common", "right", "alike"), [(0.5, 0.7, 1), (0.5, 0.9, 0.5), (0.5, 0.98, 1), (0.9, 0.95, 1)])
def test_kappa_of_clusters_is_covered(common, right, alike):
    """40 prompts with 5 pairs each; `alike` of the prompts have one truth, and as many one error, in all their pairs.

    Both raters see the truth, which is 1 with a chance of `common`, with a chance of `right`; kappa follows.
    """
    chance, hits = np.random.default_rng(0), {True: [], False: []}
    same, ones = right**2 + (1 - right) ** 2, common * right + (1 - common) * (1 - right)
    truth = (same - ones**2 - (1 - ones) ** 2) / (1 - ones**2 - (1 - ones) ** 2)

    def drawn(p):
        whole = chance.random((40, 1)) < alike
        return np.where(whole, chance.random((40, 1)) < p, chance.random((40, 5)) < p)

    for _ in range(400):
        said = drawn(common)
        raters = [(said ^ drawn(1 - right)).astype(int).ravel().tolist() for _ in range(2)]
        for clustered in (True, False):
            _, low, high = cohen_kappa(*raters, np.arange(200) // (5 if clustered else 1))
            hits[clustered].append(low is None or low <= truth <= high)
    assert np.mean(hits[True]) >= 0.93 and np.mean(hits[False]) < 0.85


def test_two_raters_are_compared_where_both_judged():
    found = agreement({"ann": {"a": 1, "b": 0, "c": 1}, "bob": {"b": 0, "c": 1, "d": 1}})
    assert found is not None
    assert (found.measure, found.value, found.n, found.same) == ("Cohen's kappa", 1.0, 2, 1.0)


def test_nothing_is_said_where_chance_would_agree_too_or_nobody_shares_a_thing():
    assert agreement({"ann": {"a": 1}, "bob": {"b": 1}}) is None
    found = agreement({"ann": {"a": 1, "b": 1}, "bob": {"a": 1, "b": 1}})
    assert found is not None and (found.value, found.same) == (None, 1.0)
    assert krippendorff_alpha([[1, 1], [1, 1, 1]]) is None


def test_a_reward_beside_the_labels_of_people():
    loud = Rule("loud", lambda prompt, reply: math.nan if reply == "?" else float(reply.isupper()), None)

    def rated(reply, score):
        return Rated(reply, (Message("user", "q"),), (Message("assistant", reply),), score)

    records = [rated("NO", 1), rated("Yes", 1), rated("OH", 0), rated("ah", 0), rated("eh", 0), rated("?", 1)]
    found = with_labels(loud, records, 0.5)
    assert found.counts == ((2, 1), (1, 1)) and found.unscored == 1
    assert [(f.record.id, f.score, f.marks) for f in found.failures] == [("Yes", 0.0, None), ("OH", 1.0, None)]
    assert found.agreement.n == 5 and found.agreement.same == 0.6
    assert found.agreement.value == pytest.approx(cohens_kappa([[2, 1], [1, 1]]).kappa)
    assert (found.agreement.clusters, with_labels(loud, records[:3] * 2, 0.5).agreement.clusters) == (1, 1)
    assert with_labels(loud, records, 1.0).counts == ((3, 0), (2, 0)), "only above the threshold is yes"
    with pytest.raises(CheckError, match=r"labels are 0 and 1 \(false and true\); that of NO is 4"):
        with_labels(loud, [rated("NO", 4)], 0.5)
    with pytest.raises(CheckError, match="'loud' has nothing to say about any of 1 replies"):
        with_labels(loud, records[-1:], 0.5)
