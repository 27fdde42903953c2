"""The report's first sentences, each derived from intervals and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.evals.statistics import shown


def headline(found: Mapping[str, Any]) -> str:
    """Which checkpoint is best by the first metric that has a better side, or that there is no telling."""
    metric, names = _first(found)
    if not names:
        return "Nothing here says what is better"
    if len(names) == 1:
        return f"{names[0]} reaches {shown(found['policies'][names[0]][metric]['value'])} by {metric}"
    best, beaten = leaders(found), _beaten(found, metric)
    if len(best) == len(names):
        return f"No checkpoint can be told from another by {metric}"
    if len(best) > 1:
        return f"Nothing beats {listed(best, 'or')} by {metric}, and they cannot be told apart"
    if all(best[0] in beaten.get(name, ()) for name in names if name != best[0]):
        others = {2: "the other", 3: "both others"}.get(len(names), f"all {len(names) - 1} others")
        return f"{best[0]} beats {others} by {metric}"
    return f"Nothing beats {best[0]} by {metric}"


def leaders(found: Mapping[str, Any]) -> list[str]:
    """The policies that no other surely beats by the first metric that has a better side."""
    metric, names = _first(found)
    beaten = _beaten(found, metric)
    return [name for name in names if name not in beaten]


def against_first(found: Mapping[str, Any]) -> list[str]:
    """Of each later policy one sentence: by which metrics it is surely better and worse than the first."""
    first, *others = found["policies"]
    said = []
    for name in others:
        pairs = [p for p in found["pairs"] if (p["policy"], p["baseline"]) == (name, first) and p["sure"]]
        sides = {p["metric"]: (p["difference"] > 0) == (side == "higher")
                 for p in pairs if (side := found["better"][p["metric"]])}  # fmt: skip
        good, bad = ([m for m, is_better in sides.items() if is_better is wanted] for wanted in (True, False))
        parts = [f"better by {listed(good)}"] * bool(good) + [f"worse by {listed(bad)}"] * bool(bad)
        apart = f"{name} and {first} cannot be told apart by any metric with a better side"
        said.append(f"{name}, against {first}, is {', and '.join(parts)}" if parts else apart)
    return said


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _first(found: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The first metric that has a better side, and the policies that it was measured of."""
    metric = next((name for name, side in found["better"].items() if side), "")
    return metric, [name for name, values in found["policies"].items() if metric in values]


def _beaten(found: Mapping[str, Any], metric: str) -> dict[str, set[str]]:
    """policy -> those that surely beat it."""
    made: dict[str, set[str]] = {}
    for pair in found["pairs"]:
        if pair["metric"] == metric and pair["sure"]:
            wins = (pair["difference"] > 0) == (found["better"][metric] == "higher")
            winner, loser = (pair["policy"], pair["baseline"])[:: 1 if wins else -1]
            made.setdefault(loser, set()).add(winner)
    return made
