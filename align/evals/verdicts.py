"""Sentences about paired differences. Each is derived from the interval and the test, and says no more than they do."""

from __future__ import annotations

from dataclasses import dataclass

from align.evals import ENOUGH, LEVEL
from align.evals.statistics import Difference, Interval, shown
from align.rewards.base import Better


@dataclass(frozen=True)
class Standing:
    """What a difference is worth among the pairs of its metric."""

    p_holm: float
    """The p-value after Holm's procedure."""
    pairs: int = 1
    """The pairs that it counted."""
    worth: float | None = None
    """A difference that people would care about."""
    needed: int | None = None
    """Prompts that would show one of `worth`."""

    def sure(self, found: Difference) -> bool:
        """Whether the difference holds when all pairs are counted."""
        return found.sure and self.p_holm <= 1 - LEVEL


def verdict(
    metric: str, better: Better, policy: str, baseline: str, found: Difference, standing: Standing | None = None
) -> str:
    """One sentence: who beats whom, or that they are equal or differ by less than matters, or that nobody can tell.

    standing: none means that this pair is the only one, and that nobody said what matters.
    """
    standing = standing or Standing(found.p)
    interval = f"{shown(found.difference, '+')} [{shown(found.low)}, {shown(found.high)}], {_counted(found)}"
    if found.tie == found.n:
        return f"{metric}: {policy} and {baseline} are equal on all {found.n} prompts"
    if standing.sure(found):
        return f"{metric}: {policy} {_direction(found, better)} {baseline}: {interval}"
    if found.units >= ENOUGH and standing.worth and max(-found.low, found.high) < standing.worth:
        return f"{metric}: {policy} and {baseline} differ by less than {shown(standing.worth)}: {interval}"
    return f"{metric}: {policy} and {baseline} are not distinguishable at {_counted(found)}{_why(found, standing)}"


def preferred(
    judge: str, policy: str, baseline: str, rate: Interval, against_half: Difference, standing: Standing
) -> str:  # fmt: skip
    """One sentence about whose replies a judge prefers. against_half: the difference of the rate from a half."""
    if standing.sure(against_half):
        wins = "beats" if against_half.difference > 0 else "loses to"
        said = f"it wins {shown(rate.value)} [{shown(rate.low)}, {shown(rate.high)}], {_counted(rate)}"
        return f"{judge}: {policy} {wins} {baseline}: {said}"
    return f"{judge}: {policy} and {baseline} are not distinguishable at {_counted(rate)}{_why(against_half, standing)}"


def _direction(found: Difference, better: Better) -> str:
    if better is None:
        return "is higher than" if found.difference > 0 else "is lower than"
    return "beats" if (found.difference > 0) == (better == "higher") else "loses to"


def _counted(found: Difference | Interval) -> str:
    return f"n = {found.n}" + (f" in {found.clusters} clusters" if found.clusters is not None else "")


def _why(found: Difference, standing: Standing) -> str:
    if found.units < ENOUGH:
        return f"; fewer than {ENOUGH} {'prompts' if found.clusters is None else 'clusters'} tell nothing"
    among = f" among {standing.pairs} pairs" if found.sure else ""
    if standing.needed and standing.worth and standing.needed > found.n:
        return f"{among}; {standing.needed} prompts would show a difference of {shown(standing.worth)}"
    return f"{among}; the difference may lie anywhere from {shown(found.low)} to {shown(found.high)}"
