"""Rates: how often something is so, their intervals and tests, also where what is counted comes in clusters.

Answers to the turns of one conversation, or to pairs about one prompt, tell less than as many that have nothing to do
with one another. The design effect says how much less (Rao and Scott, Biometrics 48, 1992): the variance of their mean
by clusters, divided by that of as many that stand alone. Counts divided by it go into the formulas for independent ones
(Dean and Pagano, Journal of Survey Statistics and Methodology 3, 2015). Where nothing varies it cannot be estimated,
and a cluster is taken for one observation: then nothing is certain only because it was asked ten times.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import binomtest, norm, t
from statsmodels.stats.proportion import proportion_confint

from align.evals import LEVEL


def wilson(right: np.ndarray, place: np.ndarray | None = None) -> tuple[float, float]:
    """95 % Wilson interval of a share; `right` is 1, 0 or a half each, `place` (n,) the number of each one's cluster.

    One cluster alone tells nothing.
    """
    return wilson_of(float(right.mean()), len(right) if place is None else effective(right - right.mean(), place))


def wilson_of(share: float, n: float) -> tuple[float, float]:
    """The same of a share of n things that stand alone."""
    if not n:
        return 0.0, 1.0
    found: Any = proportion_confint(share * n, n, 1 - LEVEL, method="wilson")
    return float(found[0]), float(found[1])


def mcnemar(gap: np.ndarray, place: np.ndarray | None = None) -> float:
    """Two-sided p-value of McNemar's test: of (n,) differences as many are above 0 as below.

    It is exact (discordant pairs are a fair coin's), or where they come in clusters its statistic, divided by the
    design effect, against a t-distribution.
    """
    win, loss = int((gap > 0).sum()), int((gap < 0).sum())
    if not win + loss:
        return 1.0
    clusters = len(gap) if place is None else len(np.unique(place))
    if place is None or clusters == len(gap):
        return float(binomtest(win, win + loss).pvalue)
    if clusters == 1:
        return 1.0
    design = design_effect(gap - gap.mean(), place)
    return 2 * float(t.sf(abs(win - loss) / np.sqrt((win + loss) * design), clusters - 1))


def paired_rates(win: float, loss: float, n: float) -> tuple[float, float]:
    """95 % interval of the difference of two rates on the same n prompts: Wald's with one observation added to the
    wins and one to the losses (Bonett and Price, Journal of Educational and Behavioral Statistics 37, 2012)."""
    up, down = (win + 1) / (n + 2), (loss + 1) / (n + 2)
    half = float(norm.ppf((1 + LEVEL) / 2)) * np.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return float(max(up - down - half, -1)), float(min(up - down + half, 1))


def effective(pulls: np.ndarray, place: np.ndarray) -> float:
    """How many observations that stand alone would tell as much; fewer still, as few clusters tell their variance
    badly (Korn and Graubard, Survey Methodology 24, 1998)."""
    n, clusters = len(pulls), len(np.unique(place))
    if clusters == n:
        return n
    if clusters == 1:
        return 0.0
    few = (norm.ppf((1 + LEVEL) / 2) / t.ppf((1 + LEVEL) / 2, clusters - 1)) ** 2
    return float(n / design_effect(pulls, place) * few)


def design_effect(pulls: np.ndarray, place: np.ndarray) -> float:
    """The variance of a mean by clusters, in units of that of independent observations; never below 1.

    pulls: (n,) each observation's distance from the mean. place: (n,) the number of its cluster.
    """
    sizes = np.unique(place, return_counts=True)[1]
    if len(sizes) == len(pulls):
        return 1.0
    if not pulls.any():
        return float((sizes**2).sum() / len(pulls))
    alone = standard_error(pulls, np.arange(len(pulls)))
    return max(1.0, (standard_error(pulls, place) / alone) ** 2)


def standard_error(pulls: np.ndarray, place: np.ndarray) -> float:
    """Of a mean, from each observation's distance from it, clustered."""
    sums = np.bincount(np.unique(place, return_inverse=True)[1], pulls)
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(pulls))
