"""Comparisons: which policy is better by which metric, with intervals, in JSON, Markdown and sentences.

`comparison.json`:

    policies    name -> metric -> {value, low, high, n}
    pairs       [{metric, policy, baseline, difference, low, high, p, win, tie, loss, n}], each later policy against
                each earlier one
    verdicts    sentences, derived from the pairs' intervals and nothing else
    better      metric -> "higher", "lower" or null
    settings    what all policies shared: decoding, seed, prompts, base, templates
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from math import exp
from typing import Any

from align.evals.statistics import Difference, Measure, difference, interval, shown, verdict
from align.rewards.base import Better
from align.stage import seed_of

Measures = Mapping[str, Mapping[str, Measure]]
"""policy -> metric -> measure, in the order in which they are shown."""


def comparison(measures: Measures, better: Mapping[str, Better], settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """The content of comparison.json. Raises CheckError where two policies did not answer the same prompts."""
    policies = {
        name: {metric: asdict(interval(m, seed_of(seed, metric))) for metric, m in found.items()}
        for name, found in measures.items()
    }
    for values in policies.values():
        if "nll" in values:
            values["perplexity"] = {k: v if k == "n" else exp(v) for k, v in values["nll"].items()}
    pairs, verdicts = [], []
    for baseline, policy in combinations(measures, 2):
        for metric in measures[policy].keys() & measures[baseline].keys():
            found = difference(measures[policy][metric], measures[baseline][metric], seed_of(seed, metric))
            pairs.append({"metric": metric, "policy": policy, "baseline": baseline} | asdict(found))
    order = list(dict.fromkeys(metric for values in policies.values() for metric in values))
    pairs.sort(key=lambda pair: order.index(pair["metric"]))
    for pair in pairs:
        metric, policy, baseline = pair["metric"], pair["policy"], pair["baseline"]
        if better.get(metric) is not None:
            found = Difference(**{k: v for k, v in pair.items() if k not in ("metric", "policy", "baseline")})
            verdicts.append(verdict(metric, better[metric], policy, baseline, found))
    return {
        "policies": policies,
        "pairs": pairs,
        "verdicts": verdicts,
        "better": {metric: better.get(metric) for metric in order},
        "settings": settings,
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The comparison for people: verdicts, values, differences, settings."""
    policies, better = found["policies"], found["better"]
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    lines = ["# Comparison", ""]
    lines += [f"- {sentence}" for sentence in found["verdicts"]] + [""] * bool(found["verdicts"])
    lines += _table(
        ["metric", *policies],
        [[m + arrows[better[m]], *(_interval(values.get(m)) for values in policies.values())] for m in better],
    )
    if found["pairs"]:
        lines += ["", "Paired differences, policy minus baseline:", ""]
        lines += _table(
            ["metric", "policy", "baseline", "difference", "p", "win / tie / loss", "n"],
            [
                [p["metric"], p["policy"], p["baseline"], _interval(p, "difference", "+"), f"{p['p']:.2g}",
                 f"{p['win']} / {p['tie']} / {p['loss']}", str(p["n"])]
                for p in found["pairs"]
            ],
        )  # fmt: skip
    lines += [
        "",
        "Values are means over prompts with 95 % bootstrap intervals; arrows show what is better. Wins are prompts on "
        "which the policy's value is higher. Intervals are not widened for the number of comparisons.",
        "",
        *(f"- {name}: {value}" for name, value in found["settings"].items()),
    ]
    return "\n".join(lines) + "\n"


def _interval(value: Mapping[str, Any] | None, name: str = "value", sign: str = "") -> str:
    if value is None:
        return ""
    return f"{shown(value[name], sign)} [{shown(value['low'])}, {shown(value['high'])}]"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (head, *rows)]
    lines.insert(1, ["-" * width for width in widths])
    return [f"| {' | '.join(cells)} |" for cells in lines]
