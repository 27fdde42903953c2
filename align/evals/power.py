"""What a comparison of so many prompts could have found, and how many comparisons it is one of.

The more pairs are looked at, the more look different by chance. Holm's procedure keeps the chance that any of a
metric's pairs is called different wrongly below 5 %, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from statsmodels.stats.power import TTestPower

from align.evals import ENOUGH, LEVEL
from align.evals.statistics import Difference, Measure

POWER = 0.8
"""The chance with which a difference is to be found."""
WORTH_OF_RATES = 0.05
WORTH_IN_SPREADS = 0.2
"""Cohen's small effect."""


def holm(p: Sequence[float]) -> list[float]:
    """p-values of one family of tests, adjusted by Holm's step-down procedure (Scand. J. Statistics, 1979).

    Written here because statsmodels' collects the garbage of the whole process at each call.
    """
    order = np.argsort(p)
    scaled = np.take(p, order) * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(scaled).clip(max=1)
    return adjusted.tolist()


def detectable(spread: float, n: int, pairs: int = 1) -> float | None:
    """The smallest difference that a paired t-test on n prompts finds with 80 % power, as one of so many pairs.

    spread: standard deviation of the prompts' differences; with none, nothing is known, which is None.
    """
    return _detectable_effect(n, pairs) * spread if spread > 0 and n > 1 else None


def needed(worth: float, spread: float, pairs: int = 1) -> int | None:
    """How many prompts show a difference of `worth` with 80 % power; None where `spread` says nothing."""
    if not (spread > 0 and worth > 0):
        return None
    if worth / spread >= _detectable_effect(ENOUGH, pairs):
        return ENOUGH
    alpha = (1 - LEVEL) / pairs
    return math.ceil(TTestPower().solve_power(effect_size=worth / spread, alpha=alpha, power=POWER))


def prompts_needed(found: Difference, worth: float | None, pairs: int) -> int | None:
    """How many prompts, in clusters as large as these, show a difference of `worth` with 80 % power."""
    units = needed(worth, found.error * math.sqrt(found.units), pairs) if worth else None
    return None if units is None else math.ceil(units * found.n / found.units)


def worthwhile(measures: Sequence[Measure], share: bool) -> float | None:
    """A difference of a metric that people would care about where they do not say: 0.05 of a rate, else a fifth of the
    standard deviation between prompts (of all policies, to one digit); None where prompts do not vary."""
    if share:
        return WORTH_OF_RATES
    variances = [float(measure.by_prompt.var()) for measure in measures]
    found = WORTH_IN_SPREADS * math.sqrt(sum(variances) / max(len(variances), 1))
    return float(f"{found:.0e}") if found > 0 else None


@lru_cache
def _detectable_effect(n: int, pairs: int) -> float:
    found = TTestPower().solve_power(nobs=n, alpha=(1 - LEVEL) / pairs, power=POWER)
    return float(np.squeeze(found))  # an array of one where the solver had to try again
