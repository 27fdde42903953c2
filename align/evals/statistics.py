"""How sure a number is: bootstrap intervals over prompts, and paired differences.

Prompts are what is drawn again and again, never replies or tokens: replies to one prompt are alike, so treating them as
independent makes intervals too narrow. Two policies are compared on the same prompts, pair by pair, which takes the
difficulty of the prompts out of the difference (lm-evaluation-harness#3831 compared paired data unpaired).

The prompts are drawn once for a seed and serve every metric of every policy: a resample is a row of counts, and its
sums are one matrix product, where scipy.stats.bootstrap would draw and gather anew each time. Percentiles are moved
outward as a t-distribution asks for (expanded percentile, section 3.3 of arXiv:1411.5279), which makes intervals cover
what they say from about 20 prompts on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm, t

from align.errors import CheckError
from align.evals import ENOUGH

LEVEL = 0.95
RESAMPLES = 9999
CHUNK = 1000
"""Resamples of one matrix product."""
KEPT = 2**14
"""Draws from up to so many prompts stay in memory, a byte for each resample and prompt."""


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

    @property
    def is_binary(self) -> bool:
        """Whether every prompt says 0 or 1."""
        return self.is_mean and bool(np.isin(self.total, (0, 1)).all())

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
    """Two-sided p-value of no difference, by `test`."""
    win: int
    """Prompts on which the policy's value is higher."""
    tie: int
    loss: int
    n: int
    spread: float = 0.0
    """Standard deviation over prompts of their own differences."""
    test: str = "bootstrap"
    """`bootstrap`, or `mcnemar` where each prompt says 0 or 1 of both."""

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0, the test agrees, and there are prompts enough to trust them."""
        return self.n >= ENOUGH and self.p <= 1 - LEVEL and not self.low <= 0 <= self.high

    @property
    def effect(self) -> float | None:
        """Cohen's d_z, the difference in units of `spread`; None where no prompt differs from another."""
        return self.difference / self.spread if self.spread else None


def interval(measure: Measure, seed: int, share: bool = False) -> Interval:
    """The measure's value with its bootstrap interval.

    share: whether it is a rate. Prompts that all say 0 or 1 give it a Wilson interval: drawn again and again, a rate of
    0 or 1 never changes, and would look certain.
    """
    if share and np.isin(measure.total, (0, 1)).all() and len(measure.ids) > 1:
        return Interval(measure.value, *wilson(measure.total), len(measure.ids))
    drawn = _ratio(*resampled((measure.total, measure.count), seed).T)
    low, high = map(float, percentiles(drawn, len(measure.ids)))
    return Interval(measure.value, low, high, len(measure.ids))


def difference(policy: Measure, baseline: Measure, seed: int) -> Difference:
    """The paired difference of two measures. Raises CheckError unless they are of the same prompts.

    Where each prompt says 0 or 1 of both, the test is McNemar's and the interval Bonett's and Price's; else both are
    those of the bootstrap.
    """
    if policy.ids != baseline.ids:
        apart = len(set(policy.ids) ^ set(baseline.ids))
        raise CheckError(f"a paired comparison needs the same prompts in the same order; {apart} are on one side only")
    gap, n = policy.by_prompt - baseline.by_prompt, _enough(len(policy.ids))
    win, loss = int((gap > 0).sum()), int((gap < 0).sum())
    value, spread = policy.value - baseline.value, _spread(policy, baseline)
    if policy.is_binary and baseline.is_binary:
        low, high = paired_rates(win, loss, n)
        return Difference(value, low, high, mcnemar(win, loss), win, n - win - loss, loss, n, spread, "mcnemar")
    sums = resampled((policy.total, policy.count, baseline.total, baseline.count), seed)
    drawn = _ratio(sums[:, 0], sums[:, 1]) - _ratio(sums[:, 2], sums[:, 3])
    low, high = map(float, percentiles(drawn, n))
    return Difference(value, low, high, float(p_value(drawn, n)), win, n - win - loss, loss, n, spread)


def wilson(right: np.ndarray) -> tuple[float, float]:
    """95 % Wilson interval of a share; `right` is 1, 0 or a half each."""
    found = binomtest(round(float(right.sum())), len(right)).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def mcnemar(win: int, loss: int) -> float:
    """Two-sided p-value of McNemar's exact test: discordant pairs are a fair coin's."""
    return float(binomtest(win, win + loss).pvalue) if win + loss else 1.0


def paired_rates(win: int, loss: int, n: int) -> tuple[float, float]:
    """95 % interval of the difference of two rates on the same n prompts: Wald's with one observation added to the
    wins and one to the losses (Bonett and Price, Journal of Educational and Behavioral Statistics 37, 2012)."""
    up, down = (win + 1) / (n + 2), (loss + 1) / (n + 2)
    half = float(norm.ppf((1 + LEVEL) / 2)) * np.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return float(max(up - down - half, -1)), float(min(up - down + half, 1))


def resampled(columns: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """(RESAMPLES, columns) sums of each column over prompts drawn with replacement; each column is (P,)."""
    prompts = _enough(len(columns[0]))
    table = np.stack(columns, 1)
    chunks = _kept(prompts, seed) if prompts <= KEPT else _draws(prompts, seed)
    return np.concatenate([chunk.astype(float) @ table for chunk in chunks])


def percentiles(drawn: np.ndarray, prompts: int) -> tuple[Any, Any]:
    """The 95 % expanded percentile interval of resampled values, (RESAMPLES, ...)."""
    tail = float(norm.sf(np.sqrt(prompts / (prompts - 1)) * t.ppf((1 + LEVEL) / 2, prompts - 1)))
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return low, high


def p_value(drawn: np.ndarray, prompts: int) -> Any:
    """Two-sided p-value of 0, the level at which the expanded percentile interval would begin to contain it."""
    counts = np.minimum((drawn <= 0).sum(0), (drawn >= 0).sum(0))
    depth = norm.isf((1 + counts) / (1 + len(drawn))) * np.sqrt((prompts - 1) / prompts)
    return np.minimum(1.0, 2 * t.sf(depth, prompts - 1))


def shown(number: float, sign: str = "") -> str:
    """A number with three digits, or all those before the point."""
    return f"{number:{sign}.0f}" if abs(number) >= 999.5 else f"{number:{sign}.3g}"


def _draws(prompts: int, seed: int) -> Iterator[np.ndarray]:
    """Chunks of (resamples, prompts) uint8: how often each resample draws each prompt."""
    chance = np.random.default_rng(seed)
    for start in range(0, RESAMPLES, CHUNK):
        rows = chance.integers(0, prompts, (min(CHUNK, RESAMPLES - start), prompts))
        yield np.stack([np.bincount(row, minlength=prompts) for row in rows]).astype(np.uint8)


@lru_cache(maxsize=2)
def _kept(prompts: int, seed: int) -> tuple[np.ndarray, ...]:
    return tuple(_draws(prompts, seed))


def _enough(prompts: int) -> int:
    if prompts < 2:
        raise CheckError(f"an interval needs at least 2 prompts, found {prompts}")
    return prompts


def _spread(policy: Measure, baseline: Measure) -> float:
    """Standard deviation of the prompts' differences, 0 where it is nothing but rounding."""
    pulls = [
        (measure.total - measure.value * measure.count) / max(measure.count.mean(), 1e-300)
        for measure in (policy, baseline)
    ]  # Each prompt's pull on the value (delta method): where that is a mean, the prompt's own, up to a constant.
    found = float((pulls[0] - pulls[1]).std(ddof=1))
    return found if found > 1e-12 * max(abs(pulls[0]).max(), abs(pulls[1]).max()) else 0.0


def _ratio(total: Any, count: Any) -> Any:
    """total / count, and 0 where nothing was counted."""
    return total / np.where(count > 0, count, 1)
