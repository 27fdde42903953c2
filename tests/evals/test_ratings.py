"""Ratings against closed forms and statsmodels' logistic regression."""

from itertools import combinations

import numpy as np
import pytest
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM

from align.evals.ratings import bradley_terry
from align.evals.ratings import ratings as of_rates
from align.evals.wins import Scored, wins


def replies(values):
    return {str(i): Scored(np.array([value]), np.array([1.0])) for i, value in enumerate(values)}


def ratings(made, seed):
    return of_rates({pair: wins(made[pair[1]], made[pair[0]]).rate for pair in combinations(made, 2)}, seed)


def test_two_policies_are_the_log_odds_of_their_wins():
    first, second = bradley_terry(np.array([[0.0, 30], [10, 0]]))
    assert first - second == pytest.approx(np.log(3)) and first + second == pytest.approx(0)


def test_many_policies_are_a_logistic_regression():
    won = np.array([[0, 12, 30, 25.5], [18, 0, 21, 11], [4, 9, 0, 14], [4.5, 19, 6, 0]])
    design, odds, games = [], [], []
    for i in range(4):
        for j in range(i):
            design.append((np.eye(4)[i] - np.eye(4)[j])[1:])
            odds.append(won[i, j] / (won[i, j] + won[j, i])), games.append(won[i, j] + won[j, i])
    theirs = np.r_[
        0, GLM(np.array(odds), np.array(design), family=Binomial(), var_weights=np.array(games)).fit().params
    ]
    assert bradley_terry(won) == pytest.approx(theirs - theirs.mean(), abs=1e-6)
    assert bradley_terry(np.stack([won, won.T]))[1] == pytest.approx(-(theirs - theirs.mean()), abs=1e-6)


def test_a_champion_is_not_infinitely_good():
    """199.5 to 0.5 with the tie: 200 prompts on which one always wins, and the others are equal."""
    found = ratings({"best": replies(np.ones(200)), "b": replies(np.zeros(200)), "c": replies(np.zeros(200))}, seed=0)
    gap = found["best"]["value"] - found["b"]["value"]
    assert gap == pytest.approx(400 * np.log10(200.5 / 0.5), rel=1e-3)
    assert found["b"] == pytest.approx(found["c"])
    assert sum(rating["value"] for rating in found.values()) == pytest.approx(0, abs=1e-6)


def test_intervals_cover_the_true_ratings():
    """Scores with Gumbel noise win with Bradley-Terry odds: exp(1) between neighbours, 173.7 Elo points."""
    hits, truth = [], 400 / np.log(10)
    for seed in range(60):
        noise = np.random.default_rng(seed).gumbel(0, 1, (3, 120))
        made = {name: replies(row + i) for i, (name, row) in enumerate(zip("abc", noise, strict=True))}
        found = ratings(made, seed=0)
        hits.append(found["c"]["low"] <= truth <= found["c"]["high"])
    assert np.mean(hits) >= 0.9


def test_prompts_that_not_all_answered_are_left_out():
    three = {"a": replies([1, 1, 0, 1]), "b": replies([0, 1, 1, 0]), "c": replies([0, 0])}
    same = {name: replies([s.scores[0] for s in list(of.values())[:2]]) for name, of in three.items()}
    assert ratings(three, 0) == ratings(same, 0)
    assert ratings({"a": replies([1]), "b": replies([1]), "c": replies([1])}, 0) == {}
