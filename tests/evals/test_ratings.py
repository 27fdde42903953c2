"""Ratings against closed forms and statsmodels' logistic regression."""

from itertools import combinations

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import beta, norm, t
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM

from align.evals import statistics
from align.evals.ratings import ELO, bradley_terry
from align.evals.ratings import ratings as of_rates
from align.evals.statistics import Measure
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
    """200.5 to 0.5: 200 prompts on which one always wins, and the others are equal."""
    found = ratings({"best": replies(np.ones(200)), "b": replies(np.zeros(200)), "c": replies(np.zeros(200))}, seed=0)
    gap = found["best"]["value"] - found["b"]["value"]
    assert gap == pytest.approx(400 * np.log10(200.5 / 0.5), rel=1e-3)
    assert found["b"] == pytest.approx(found["c"], rel=0.01)
    assert sum(rating["value"] for rating in found.values()) == pytest.approx(0, abs=1e-6)
    assert found["best"]["low"] + 100 < found["best"]["value"] < found["best"]["high"] - 100, "nor certainly so good"


def of_two(wins, losses, clusters=()):
    """(low, high) of the log-odds of a policy that won and lost so many prompts."""
    won = np.r_[np.ones(wins), np.zeros(losses)]
    rate = Measure(tuple(map(str, range(len(won)))), won, np.ones(len(won)), clusters)
    found = of_rates({("a", "b"): rate}, seed=0)["b"]
    return [found[end] * 2 / ELO for end in ("low", "high")]


@pytest.mark.parametrize(("wins", "losses"), [(60, 0), (12, 9), (1, 40)])
def test_two_policies_have_jeffreys_interval(wins, losses):
    """In closed form: log-odds of quantiles of a beta distribution, at the levels that few prompts ask for."""
    n = wins + losses
    tail = norm.sf(np.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1))
    exact = [logit(beta.ppf(q, wins + 0.5, losses + 0.5)) for q in (tail, 1 - tail)]
    assert of_two(wins, losses) == pytest.approx(exact, rel=0.04, abs=0.04)


def test_a_conversation_of_wins_is_one_win():
    of = tuple(str(i // 5) for i in range(100))
    assert of_two(100, 0, of) == pytest.approx(of_two(20, 0), rel=0.05)


@pytest.mark.parametrize(("odds", "prompts"), [(1.0, 120), (3.0, 40)])
def test_intervals_cover_the_true_ratings(odds, prompts, monkeypatch):
    """Scores with Gumbel noise win with Bradley-Terry odds. With exp(3) between neighbours, the first lost to the third
    on every prompt in nine trials of ten. 360 intervals have a standard error of 1.1 points, and some share a trial.
    """
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    hits = []
    for seed in range(120):
        noise = np.random.default_rng(seed).gumbel(0, 1, (3, prompts))
        made = {name: replies(row + odds * i) for i, (name, row) in enumerate(zip("abc", noise, strict=True))}
        found = ratings(made, seed)
        truth = {"a": -odds * ELO, "b": 0.0, "c": odds * ELO}
        hits += [found[name]["low"] <= truth[name] <= found[name]["high"] for name in truth]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.03)


def test_prompts_that_not_all_answered_are_left_out():
    three = {"a": replies([1, 1, 0, 1]), "b": replies([0, 1, 1, 0]), "c": replies([0, 0])}
    same = {name: replies([s.scores[0] for s in list(of.values())[:2]]) for name, of in three.items()}
    assert ratings(three, 0) == ratings(same, 0)
    assert ratings({"a": replies([1]), "b": replies([1]), "c": replies([1])}, 0) == {}
