"""How sure a number is: bootstrap intervals over prompts, and paired differences.

Prompts are what is drawn again and again, never replies or tokens: replies to one prompt are alike, so treating them as
independent makes intervals too narrow. Two policies are compared on the same prompts, pair by pair, which takes the
difficulty of the prompts out of the difference (lm-evaluation-harness#3831 compared paired data unpaired).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap

from align.errors import CheckError
from align.rewards.base import Better

LEVEL = 0.95
RESAMPLES = 9999
ENOUGH = 10
"""With fewer prompts a bootstrap interval is too narrow to conclude anything from."""


@dataclass(frozen=True, eq=False)
class Measure:
    """What was measured, prompt by prompt. The value is sum(total) / sum(count): a mean over prompts where every count
    is 1, else over what is counted, such as tokens."""

    ids: tuple[str, ...]
    total: np.ndarray
    """(P,) float64."""
    count: np.ndarray
    """(P,) float64."""

    @classmethod
    def of_means(cls, ids: tuple[str, ...], means: np.ndarray) -> Measure:
        """A mean over prompts."""
        return cls(ids, np.asarray(means, float), np.ones(len(ids)))

    @property
    def value(self) -> float:
        return float(_ratio(self.total.sum(), self.count.sum()))

    @property
    def by_prompt(self) -> np.ndarray:
        """(P,) each prompt's own value."""
        return _ratio(self.total, self.count)

    @property
    def is_mean(self) -> bool:
        return bool((self.count == 1).all())

    @property
    def is_share(self) -> bool:
        """Whether every prompt's value could be that of a rate."""
        return self.is_mean and bool(((self.total >= 0) & (self.total <= 1)).all())

    def of(self, ids: Sequence[str]) -> Measure:
        """The part about these prompts, in their order."""
        place = {id: i for i, id in enumerate(self.ids)}
        chosen = [place[id] for id in ids]
        return Measure(tuple(ids), self.total[chosen], self.count[chosen])


@dataclass(frozen=True)
class Interval:
    """A value and where it may lie, at 95 % confidence."""

    value: float
    low: float
    high: float
    n: int
    """Prompts."""


@dataclass(frozen=True)
class Difference:
    """A policy's value minus a baseline's, on the same prompts."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided bootstrap p-value of no difference; below 0.05 where the interval leaves out 0."""
    win: int
    """Prompts on which the policy's value is higher."""
    tie: int
    loss: int
    n: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0, and there are prompts enough to trust it."""
        return self.n >= ENOUGH and not self.low <= 0 <= self.high


def interval(measure: Measure, seed: int, share: bool = False) -> Interval:
    """The measure's value with its percentile bootstrap interval.

    share: whether it is a rate. Prompts that all say 0 or 1 give it a Wilson interval: drawn again and again, a rate of
    0 or 1 never changes, and would look certain.
    """
    if share and np.isin(measure.total, (0, 1)).all() and len(measure.ids) > 1:
        return Interval(measure.value, *wilson(measure.total), len(measure.ids))
    value, low, high, _ = _bootstrap((measure.total,) if measure.is_mean else (measure.total, measure.count), seed)
    return Interval(value, low, high, len(measure.ids))


def wilson(right: np.ndarray) -> tuple[float, float]:
    """95 % Wilson interval of a share; `right` is 1, 0 or a half each."""
    found = binomtest(round(float(right.sum())), len(right)).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def difference(policy: Measure, baseline: Measure, seed: int) -> Difference:
    """The paired difference of two measures. Raises CheckError unless they are of the same prompts."""
    if policy.ids != baseline.ids:
        apart = len(set(policy.ids) ^ set(baseline.ids))
        raise CheckError(f"a paired comparison needs the same prompts in the same order; {apart} are on one side only")
    paired = policy.is_mean and baseline.is_mean
    arrays = (policy.total, policy.count, baseline.total, baseline.count)
    value, low, high, drawn = _bootstrap((policy.total - baseline.total,) if paired else arrays, seed)
    tails = [(1 + np.count_nonzero(side)) / (1 + len(drawn)) for side in (drawn <= 0, drawn >= 0)]
    gap = policy.by_prompt - baseline.by_prompt
    win, loss = int((gap > 0).sum()), int((gap < 0).sum())
    return Difference(value, low, high, min(1.0, 2 * min(tails)), win, len(gap) - win - loss, loss, len(gap))


def verdict(metric: str, better: Better, policy: str, baseline: str, found: Difference) -> str:
    """One sentence that says no more than the interval does."""
    if not found.sure:
        few = f"; fewer than {ENOUGH} prompts tell nothing" if found.n < ENOUGH else ""
        return f"{metric}: {policy} and {baseline} are not distinguishable at n = {found.n}{few}"
    interval = f"{shown(found.difference, '+')} [{shown(found.low)}, {shown(found.high)}], n = {found.n}"
    if better is None:
        return f"{metric}: {policy} is {'higher' if found.difference > 0 else 'lower'} than {baseline}: {interval}"
    wins = (found.difference > 0) == (better == "higher")
    return f"{metric}: {policy} {'beats' if wins else 'loses to'} {baseline}: {interval}"


def shown(number: float, sign: str = "") -> str:
    """A number with three digits, or all those before the point."""
    return f"{number:{sign}.0f}" if abs(number) >= 999.5 else f"{number:{sign}.3g}"


def _bootstrap(arrays: tuple[np.ndarray, ...], seed: int) -> tuple[float, float, float, np.ndarray]:
    """(value, low, high, resampled values) of a statistic over prompts: a mean, a ratio, or a difference of ratios."""
    prompts = len(arrays[0])
    value = float(_statistic(*arrays))
    if prompts < 2:
        raise CheckError(f"an interval needs at least 2 prompts, found {prompts}")
    found: Any = bootstrap(
        arrays, _statistic, paired=True, vectorized=True, n_resamples=RESAMPLES, confidence_level=LEVEL,
        method="percentile", batch=max(1, 2**22 // prompts), rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = found.confidence_interval
    return value, float(low), float(high), found.bootstrap_distribution


def _statistic(*arrays: np.ndarray, axis: int = -1) -> np.ndarray:
    sums = [array.sum(axis) for array in arrays]
    match sums:
        case [total]:
            return total / arrays[0].shape[axis]
        case [total, count]:
            return _ratio(total, count)
        case [total, count, other_total, other_count]:
            return _ratio(total, count) - _ratio(other_total, other_count)
    raise ValueError(f"{len(arrays)} arrays")


def _ratio(total: Any, count: Any) -> Any:
    """total / count, and 0 where nothing was counted."""
    return total / np.where(count > 0, count, 1)
