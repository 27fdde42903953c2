"""The best of k among n, by enumeration and in closed form."""

from dataclasses import replace
from itertools import combinations
from math import comb, log

import numpy as np
import pytest

from align.evals.best_of import best_of_weights, curve, kl_bound
from align.records import Message, Sample


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_expected_best_is_the_mean_over_all_choices(k):
    scores = np.array([0.3, -1.0, 2.0, 0.7, 0.1])
    choices = [max(chosen) for chosen in combinations(scores, k)]
    assert best_of_weights(scores, k) @ scores == pytest.approx(np.mean(choices))


def test_equal_scores_share_their_chances():
    """Two of [1, 0, 1] hold a 1 always; which of the two is said to be best is a matter of chance."""
    assert best_of_weights(np.array([1.0, 0.0, 1.0]), 2) == pytest.approx([0.5, 0, 0.5])


def test_for_right_and_wrong_it_is_pass_at_k():
    """1 - C(n - c, k) / C(n, k), eq. 1 of arXiv:2107.03374, with 3 right of 10."""
    right = np.array([0, 1, 0, 0, 1, 0, 0, 0, 1, 0.0])
    for k in (1, 4, 8):
        assert best_of_weights(right, k) @ right == pytest.approx(1 - comb(7, k) / comb(10, k))


def test_many_replies_do_not_overflow():
    scores = np.random.default_rng(0).uniform(0, 1, 4000)
    assert best_of_weights(scores, 1000).sum() == pytest.approx(1)
    assert best_of_weights(scores, 9) @ scores == pytest.approx(0.9, abs=0.01)


def test_the_bound_on_kl():
    assert (kl_bound(1), kl_bound(4)) == (0, pytest.approx(log(4) - 0.75))


def samples(prompts, replies, seed=0):
    chance = np.random.default_rng(seed)
    return [
        Sample(str(i), (Message("user", str(i)),), "x", "me", index=j, tokens=10,
               scores={"proxy": (proxy := chance.normal()), "gold": -proxy, "rare": 1.0} | ({} if i else {"odd": 1.0}))
        for i in range(prompts) for j in range(replies)
    ]  # fmt: skip


def test_the_curve_rises_as_order_statistics_of_the_normal_do():
    """The expected maximum of 2 and 4 standard normal numbers: 0.5642 and 1.0294."""
    rows = curve(samples(1000, 4), ["proxy", "gold", "odd"], "higher", (1, 2, 4), seed=0)
    found = {(row["n"], row["metric"]): row for row in rows}
    assert found.keys() == {(n, metric) for n in (1, 2, 4) for metric in ("proxy", "gold")}
    for n, expected in ((1, 0.0), (2, 0.5642), (4, 1.0294)):
        row = found[n, "proxy"]
        assert row["value"] == pytest.approx(expected, abs=0.06) and row["low"] < expected < row["high"]
        assert found[n, "gold"]["value"] == pytest.approx(-row["value"]), "chosen by the first reward, not by itself"
        assert row["kl_per_token"] == pytest.approx(row["kl"] / 10)


def test_the_best_may_be_the_lowest():
    rows = curve(samples(500, 4), ["proxy"], "lower", (4,), seed=0)
    assert rows[0]["value"] == pytest.approx(-1.0294, abs=0.08)


def test_all_sizes_are_about_the_same_prompts():
    """Else a curve would fall or rise because hard prompts leave it."""
    few = [replace(s, id=f"few {s.id}", prompt=(Message("user", f"few {s.id}"),)) for s in samples(20, 2, seed=1)]
    hard = [replace(s, scores={"proxy": s.scores["proxy"] - 9}) for s in few]
    full = samples(30, 4)
    assert curve([*full, *hard], ["proxy"], "higher", (1, 2, 4), seed=0) == curve(
        full, ["proxy"], "higher", (1, 2, 4), 0
    )
    assert curve(full, ["proxy"], "higher", (1, 8), seed=0) == [], "8 replies nobody has"
