"""How sure a number is: bootstrap intervals over prompts, and paired differences.

Prompts are what is drawn again and again, never replies or tokens: replies to one prompt are alike, so treating them as
independent makes intervals too narrow. Two policies are compared on the same prompts, pair by pair, which takes the
difficulty of the prompts out of the difference (lm-evaluation-harness#3831 compared paired data unpaired). Turns of one
conversation are alike, too: where prompts belong to clusters (`align.evals.clusters`), whole clusters are drawn.

The prompts are drawn once for a seed and serve every metric of every policy: a resample is a row of counts, and its
sums are one matrix product, where scipy.stats.bootstrap would draw and gather anew each time. Percentiles are moved
outward as a t-distribution asks for (expanded percentile, section 3.3 of arXiv:1411.5279), which makes intervals cover
what they say from about 20 prompts on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy.stats import norm, t

from align.errors import CheckError
from align.evals import ENOUGH, LEVEL
from align.evals.rates import effective, mcnemar, paired_rates, standard_error, wilson

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
    clusters: tuple[str, ...] = ()
    """(P,) what each prompt belongs to; none means that each stands alone."""

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
        clusters = tuple(self.clusters[i] for i in chosen) if self.clusters else ()
        return Measure(tuple(ids), self.total[chosen], self.count[chosen], clusters)

    def within(self, clusters: Mapping[str, str]) -> Measure:
        """The same, its prompts in clusters; those that the mapping does not know stand alone."""
        return replace(self, clusters=tuple(clusters.get(id, id) for id in self.ids) if clusters else ())

    @cached_property
    def place(self) -> np.ndarray:
        """(P,) the number of each prompt's cluster."""
        numbers = {name: i for i, name in enumerate(dict.fromkeys(self.clusters or self.ids))}
        return np.array([numbers[name] for name in self.clusters or self.ids], int)

    @property
    def units(self) -> int:
        """Clusters, which are prompts where each stands alone: how many there are to draw from."""
        return len(set(self.clusters)) if self.clusters else len(self.ids)

    @property
    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """(C,) total and count of each cluster."""
        if not self.clusters:
            return self.total, self.count
        return np.bincount(self.place, self.total), np.bincount(self.place, self.count)


@dataclass(frozen=True)
class Interval:
    """A value and where it may lie, at 95 % confidence."""

    value: float
    low: float
    high: float
    n: int
    """Prompts."""
    clusters: int | None = None
    """What they belong to, where there is less of that than prompts."""


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
    error: float = 0.0
    """Standard error of the difference, which knows of clusters."""
    clusters: int | None = None
    """What the prompts belong to, where there is less of that than prompts."""

    @property
    def units(self) -> int:
        """How many things there are that tell something by themselves."""
        return self.n if self.clusters is None else self.clusters

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0, the test agrees, and there are prompts enough to trust them."""
        return self.units >= ENOUGH and self.p <= 1 - LEVEL and not self.low <= 0 <= self.high

    @property
    def effect(self) -> float | None:
        """Cohen's d_z, the difference in units of `spread`; None where no prompt differs from another."""
        return self.difference / self.spread if self.spread else None


def interval(measure: Measure, seed: int, share: bool = False) -> Interval:
    """The measure's value with its bootstrap interval.

    share: whether it is a rate. Prompts that all say 0 or 1 give it a Wilson interval: drawn again and again, a rate of
    0 or 1 never changes, and would look certain.
    """
    n, units = len(measure.ids), measure.units
    clusters = units if units < n else None
    if share and np.isin(measure.total, (0, 1)).all() and units > 1:
        return Interval(measure.value, *wilson(measure.total, measure.place), n, clusters)
    drawn = _ratio(*resampled(measure.sums, seed).T)
    low, high = map(float, percentiles(drawn, units))
    return Interval(measure.value, low, high, n, clusters)


def difference(policy: Measure, baseline: Measure, seed: int) -> Difference:
    """The paired difference of two measures. Raises CheckError unless they are of the same prompts.

    Where each prompt says 0 or 1 of both, the test is McNemar's and the interval Bonett's and Price's; else both are
    those of the bootstrap.
    """
    if policy.ids != baseline.ids:
        apart = len(set(policy.ids) ^ set(baseline.ids))
        raise CheckError(f"a paired comparison needs the same prompts in the same order; {apart} are on one side only")
    gap, n, units = policy.by_prompt - baseline.by_prompt, len(policy.ids), _enough(policy.units)
    win, loss = int((gap > 0).sum()), int((gap < 0).sum())
    pulls = _pulls(policy, baseline)
    if policy.is_binary and baseline.is_binary:
        share = effective(pulls, policy.place) / n
        low, high = paired_rates(win * share, loss * share, n * share)
        p, test = mcnemar(gap, policy.place), "mcnemar"
    else:
        sums = resampled((*policy.sums, *baseline.sums), seed)
        drawn = _ratio(sums[:, 0], sums[:, 1]) - _ratio(sums[:, 2], sums[:, 3])
        low, high = map(float, percentiles(drawn, units))
        p, test = float(p_value(drawn, units)), "bootstrap"
    return Difference(
        policy.value - baseline.value, low, high, p, win, n - win - loss, loss, n, spread=float(pulls.std(ddof=1)),
        test=test, error=standard_error(pulls, policy.place), clusters=units if units < n else None,
    )  # fmt: skip


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
        rows += prompts * np.arange(len(rows))[:, None]  # each resample counts in a stretch of its own
        yield np.bincount(rows.ravel(), minlength=rows.size).reshape(rows.shape).astype(np.uint8)


@lru_cache(maxsize=2)
def _kept(prompts: int, seed: int) -> tuple[np.ndarray, ...]:
    return tuple(_draws(prompts, seed))


def _enough(prompts: int) -> int:
    if prompts < 2:
        raise CheckError(f"an interval needs at least 2 prompts, found {prompts}")
    return prompts


def _pulls(policy: Measure, baseline: Measure) -> np.ndarray:
    """(P,) each prompt's pull on the difference (delta method): where values are means, its own, but for a constant.

    Nothing but rounding is 0.
    """
    pulls = [
        (measure.total - measure.value * measure.count) / max(measure.count.mean(), 1e-300)
        for measure in (policy, baseline)
    ]
    found = pulls[0] - pulls[1]
    return found if found.std() > 1e-12 * max(abs(pulls[0]).max(), abs(pulls[1]).max()) else np.zeros(len(found))


def _ratio(total: Any, count: Any) -> Any:
    """total / count, and 0 where nothing was counted."""
    return total / np.where(count > 0, count, 1)
