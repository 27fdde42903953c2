"""Which of two replies is better, and how much of that is length.

Scores and judges like long replies, so a win rate may be a length in disguise. The length-controlled one is what a
logistic regression says of replies of equal length (AlpacaEval 2, arXiv:2404.04475, eq. 2 without the term for the
difficulty of instructions, which pairing takes out already).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import norm
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM

from align.evals import LEVEL
from align.evals.statistics import Measure, interval
from align.records import Sample, prompt_id
from align.rewards.base import Better

SEPARATED = 10
"""Log-odds. An interval of the controlled win rate that reaches so far says nothing."""


@dataclass(frozen=True, eq=False)
class Scored:
    """The replies to one prompt by one policy."""

    scores: np.ndarray
    """(replies,) larger is better."""
    lengths: np.ndarray
    """(replies,) characters."""


@dataclass(frozen=True, eq=False)
class Wins:
    """Each reply of a policy against each of a baseline's to the same prompt."""

    ids: tuple[str, ...]
    """(P,) prompts."""
    prompt: np.ndarray
    """(R,) the position of each pair of replies among the prompts."""
    won: np.ndarray
    """(R,) 1 where the policy's reply is better, 0 where the baseline's is, a half where neither is."""
    longer: np.ndarray
    """(R,) characters by which the policy's reply is longer."""
    clusters: Mapping[str, str] = field(default_factory=dict)
    """Prompt -> what it belongs to; those not in it stand alone."""

    @property
    def rate(self) -> Measure:
        """The share of wins: the mean over prompts of the mean over a prompt's pairs of replies."""
        counts = np.bincount(self.prompt, minlength=len(self.ids))
        means = np.bincount(self.prompt, self.won, len(self.ids)) / counts
        return Measure.of_means(self.ids, means).within(self.clusters)


def scored(samples: Sequence[Sample], reward: str, better: Better) -> dict[str, Scored]:
    """The replies that a reward scored, by prompt."""
    sign = -1.0 if better == "lower" else 1.0
    found = {}
    for asked, group in groupby(samples, key=lambda sample: sample.prompt):
        if kept := [s for s in group if reward in s.scores]:
            scores, lengths = [sign * s.scores[reward] for s in kept], [len(s.reply) for s in kept]
            found[prompt_id(asked)] = Scored(np.array(scores, float), np.array(lengths, float))
    return found


def wins(
    policy: dict[str, Scored], baseline: dict[str, Scored], clusters: Mapping[str, str] | None = None
) -> Wins:  # fmt: skip
    """All pairs of replies to the prompts that both answered."""
    ids = tuple(id for id in policy if id in baseline)
    won, longer, sizes = [], [], []
    for id in ids:
        ours, theirs = policy[id], baseline[id]
        won.append(np.heaviside(np.subtract.outer(ours.scores, theirs.scores), 0.5).ravel())
        longer.append(np.subtract.outer(ours.lengths, theirs.lengths).ravel())
        sizes.append(len(won[-1]))
    flat_won, flat_longer = (np.concatenate(parts) if parts else np.zeros(0) for parts in (won, longer))
    return Wins(ids, np.repeat(np.arange(len(ids)), sizes), flat_won, flat_longer, clusters or {})


def win_rate(found: Wins, seed: int) -> dict[str, Any]:
    """`rate` with its interval over prompts, and the `controlled` one or None."""
    raw = interval(found.rate, seed, share=True)
    return {
        "rate": raw.value, "low": raw.low, "high": raw.high, "n": raw.n, "clusters": raw.clusters,
        "controlled": controlled(found),
    }  # fmt: skip


def controlled(found: Wins) -> dict[str, float] | None:
    """The win rate at equal length, with its 95 % interval from errors by prompt, or by what prompts belong to.

    win ~ sigmoid(theta + phi tanh(longer / std(longer))), at `longer` = 0. None where lengths never differ, or separate
    wins from losses on either side, or where one side wins always: then no number is the likeliest.
    """
    scale = found.longer.std()
    if not scale or not np.ptp(found.won):
        return None
    design = np.stack([np.ones(len(found.won)), np.tanh(found.longer / scale)], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Separation and divergence are warnings there.
        try:
            model: Any = GLM(found.won, design, family=Binomial())
            fit = model.fit(cov_type="cluster", cov_kwds={"groups": found.rate.place[found.prompt]})
        except (Warning, ArithmeticError, np.linalg.LinAlgError):
            return None
    theta, half = fit.params[0], float(norm.ppf((1 + LEVEL) / 2)) * fit.bse[0]
    if not abs(theta) + half < SEPARATED:  # The fit ran away, or has no error at all (NaN).
        return None
    return {name: float(expit(theta + by)) for name, by in (("rate", 0.0), ("low", -half), ("high", half))}
