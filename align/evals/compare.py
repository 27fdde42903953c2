"""Comparisons: which policy is better by which metric, with intervals, in JSON, Markdown and sentences.

`comparison.json`:

    policies    name -> metric -> {value, low, high, n}
    pairs       [{metric, policy, baseline, difference, low, high, p, win, tie, loss, n, sure}], each later policy
                against each earlier one, on the prompts that say something of both; `sure` is whether the interval
                leaves out 0 and n is enough to trust it
    verdicts    sentences, derived from the pairs' intervals and nothing else
    notes       sentences about what is not compared, and why
    better      metric -> "higher", "lower" or null
    settings    what all policies shared: decoding, seed, prompts, base, templates
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations, product
from math import exp
from typing import Any

from align.evals.statistics import Difference, Measure, difference, interval, shown, verdict
from align.rewards.base import Better
from align.stage import seed_of

Measures = Mapping[str, Mapping[str, Measure]]
"""policy -> metric -> measure, in the order in which they are shown."""


PER_TOKEN = ("tokens", "nll")
"""Metrics that count tokens, which are other pieces of text in another tokenizer."""


def comparison(
    measures: Measures, better: Mapping[str, Better], settings: dict[str, Any], seed: int,
    tokenizers: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The content of comparison.json. tokenizers: policy -> what names its tokenizer; none means one for all."""
    known = {name: {m: v for m, v in found.items() if len(v.ids) > 1} for name, found in measures.items()}
    notes = [
        f"{metric} of {name} is not shown: one prompt alone has no interval"
        for name, found in measures.items() for metric in found if metric not in known[name]
    ]  # fmt: skip
    shares = _shares(known)
    policies = {
        name: {metric: asdict(interval(m, seed_of(seed, metric), metric in shares)) for metric, m in found.items()}
        for name, found in known.items()
    }
    for values in policies.values():
        if "nll" in values:
            values["perplexity"] = {k: v if k == "n" else exp(v) for k, v in values["nll"].items()}
    order = list(dict.fromkeys(metric for values in policies.values() for metric in values))
    pairs, verdicts = [], []
    for metric, (baseline, policy) in product(order, combinations(known, 2)):
        if metric not in known[policy] or metric not in known[baseline]:
            continue
        if metric in PER_TOKEN and tokenizers and tokenizers[policy] != tokenizers[baseline]:
            notes.append(f"{metric} of {policy} and {baseline} are not compared: their tokenizers differ")
            continue
        found, note = _paired(known[policy][metric], known[baseline][metric], seed_of(seed, metric))
        notes += [f"{metric} of {policy} and {baseline}: {note}"] * bool(note)
        if found is None:
            continue
        pairs.append({"metric": metric, "policy": policy, "baseline": baseline, **asdict(found), "sure": found.sure})
        if better.get(metric) is not None:
            verdicts.append(verdict(metric, better[metric], policy, baseline, found))
    return {
        "policies": policies,
        "pairs": pairs,
        "verdicts": verdicts,
        "notes": notes,
        "better": {metric: better.get(metric) for metric in order},
        "settings": settings,
    }


def _shares(measures: Measures) -> set[str]:
    """The metrics that are rates: no prompt of any policy has a value outside of 0 to 1."""
    rates: dict[str, bool] = {}
    for metric, measure in (pair for found in measures.values() for pair in found.items()):
        rates[metric] = rates.get(metric, True) and measure.is_share
    return {metric for metric, is_rate in rates.items() if is_rate}


def _paired(policy: Measure, baseline: Measure, seed: int) -> tuple[Difference | None, str]:
    """The difference on the prompts that both say something about, and what is to be said of the others."""
    if policy.ids == baseline.ids:
        return difference(policy, baseline, seed), ""
    theirs = set(baseline.ids)
    shared = [id for id in policy.ids if id in theirs]
    apart = len(theirs.symmetric_difference(policy.ids))
    if len(shared) < 2:
        return None, f"not compared: {len(shared)} prompts have a value of both, {apart} of one only"
    found = difference(policy.of(shared), baseline.of(shared), seed)
    return found, f"compared on the {len(shared)} prompts that have a value of both; {apart} have that of one only"


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
        *[""] * bool(found["notes"]),
        *(f"- {sentence}" for sentence in found["notes"]),
        "",
        "Values are means over prompts with 95 % bootstrap intervals; those of rates, where each prompt says 0 or 1, "
        "are Wilson intervals. Arrows show what is better. Wins are prompts on which the policy's value is higher. "
        "Intervals are not widened for the number of comparisons.",
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
