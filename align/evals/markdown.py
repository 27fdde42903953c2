"""A comparison for people: `comparison.md`, the verdicts in words, then every number that they rest on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from align.evals.statistics import shown

ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}


def markdown(found: Mapping[str, Any]) -> str:
    """The content of comparison.md; `align.evals.compare` says what `found` holds."""
    policies, better = found["policies"], found["better"]
    lines = ["# Comparison", ""]
    lines += [f"- {sentence}" for sentence in found["verdicts"]] + [""] * bool(found["verdicts"])
    lines += _table(
        ["metric", *policies],
        [[m + ARROWS[better[m]], *(_interval(values.get(m)) for values in policies.values())] for m in better],
    )
    sections = (_pairs, _win_rates, _judges, _ratings, _best_of, _brittleness)
    for title, head, rows in (section(found) for section in sections):
        if rows:
            lines += ["", f"{title}:", "", *_table(head, rows)]
    lines += [
        *[""] * bool(found["notes"]),
        *(f"- {sentence}" for sentence in found["notes"]),
        "",
        "Values are means over prompts, or documents of a benchmark, with 95 % bootstrap intervals; those of rates, "
        "where each says 0 or 1, are Wilson intervals. Arrows show what is better. Wins are prompts on which the "
        "policy's value is higher. Intervals are not widened for the number of pairs; p is, by Holm's procedure over "
        "the pairs of a metric, and a verdict holds only where both agree.",
        "",
        *(f"- {name}: {value}" for name, value in found["settings"].items()),
    ]
    return "\n".join(lines) + "\n"


Section = tuple[str, list[str], list[list[str]]]
"""Title, head and rows."""


def _pairs(found: Mapping[str, Any]) -> Section:
    head = ["metric", "policy", "baseline", "difference", "p", "d_z", "detectable", "win / tie / loss", "n"]
    rows = [
        [p["metric"], p["policy"], p["baseline"], _interval(p, "difference", "+"), f"{p['p_holm']:.2g}",
         _number(p["effect"]), _number(p["detectable"]), f"{p['win']} / {p['tie']} / {p['loss']}", str(p["n"])]
        for p in found["pairs"]
    ]  # fmt: skip
    title = "Paired differences, policy minus baseline, and those that so many prompts find with 80 % power"
    return title, head, rows


def _win_rates(found: Mapping[str, Any]) -> Section:
    head = ["metric", "policy", "baseline", "win rate", "at equal length", "n"]
    rows = [
        [w["metric"], w["policy"], w["baseline"], _interval(w, "rate"), _interval(w["controlled"], "rate"), str(w["n"])]
        for w in found.get("win_rates", ())
    ]
    return "Win rates of replies, ties half", head, rows


def _judges(found: Mapping[str, Any]) -> Section:
    head = [
        "judge",
        "pairs",
        "unread",
        "for the first place",
        "same in both orders",
        "longer wins",
        "kappa with people",
    ]
    rows = [
        [name, str(of["pairs"]), str(of["unread"]), _interval(of["position_bias"], sign="+"),
         _interval(of["agreement_of_orders"]), _interval(of["length"]), _kappa(of["human"])]
        for name, of in found.get("judges", {}).items()
    ]  # fmt: skip
    return "Judges of pairs, and how far they can be trusted", head, rows


def _kappa(human: Mapping[str, Any] | None) -> str:
    if human is None or human["kappa"] is None:
        return ""
    within = f" in {human['clusters']} clusters" if human["clusters"] is not None else ""
    return f"{_interval(human, 'kappa')}, n = {human['n']}{within}"


def _ratings(found: Mapping[str, Any]) -> Section:
    made = found.get("ratings", {})
    head = ["metric", *next(iter(made.values()), ())]
    return "Bradley-Terry ratings in Elo points", head, [[m, *map(_interval, of.values())] for m, of in made.items()]


def _best_of(found: Mapping[str, Any]) -> Section:
    rows = [
        [policy, str(row["n"]), row["metric"], _interval(row), shown(row["kl"]), _number(row["kl_per_token"])]
        for policy, curve in found.get("best_of", {}).items() for row in curve
    ]  # fmt: skip
    head = ["policy", "n", "metric", "value", "KL at most", "a token"]
    return "Best of n by the first reward, and its distance to the policy in nats", head, rows


def _brittleness(found: Mapping[str, Any]) -> Section:
    rows = [
        [policy, transformation, metric, _interval(moved, "difference", "+"), str(moved["n"])]
        for policy, transformations in found.get("brittleness", {}).items()
        for transformation, metrics in transformations.items() for metric, moved in metrics.items()
    ]  # fmt: skip
    return "How scores move where prompts are transformed", ["policy", "prompts", "metric", "difference", "n"], rows


def _number(value: float | None) -> str:
    return "" if value is None else shown(value)


def _interval(value: Mapping[str, Any] | None, name: str = "value", sign: str = "") -> str:
    if value is None:
        return ""
    return f"{shown(value[name], sign)} [{shown(value['low'])}, {shown(value['high'])}]"


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (head, *rows)]
    lines.insert(1, ["-" * width for width in widths])
    return [f"| {' | '.join(cells)} |" for cells in lines]
