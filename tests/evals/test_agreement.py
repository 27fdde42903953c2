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
    kappa, low, high = cohen_kappa(first, second)
    assert kappa == pytest.approx(0.4)
    assert low is not None and high is not None and 0.1 < low < 0.4 < high < 0.7


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
    assert with_labels(loud, records, 1.0).counts == ((3, 0), (2, 0)), "only above the threshold is yes"
    with pytest.raises(CheckError, match=r"labels are 0 and 1 \(false and true\); that of NO is 4"):
        with_labels(loud, [rated("NO", 4)], 0.5)
    with pytest.raises(CheckError, match="'loud' has nothing to say about any of 1 replies"):
        with_labels(loud, records[-1:], 0.5)
