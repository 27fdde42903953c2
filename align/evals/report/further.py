"""The charts that only some comparisons have: ratings, the best of n replies, how scores move with the prompt."""

from __future__ import annotations

from typing import Any

from align.evals.report.charts import LEAST, WIDTH
from align.evals.report.draw import LIGHT, Chart, Span, canvas, colour, figure_of, room, short, spans
from align.evals.report.material import Material
from align.evals.statistics import shown

LINE = 24
"""Pixels between two rows."""


def ratings(of: Material) -> list[Chart]:
    """Bradley-Terry ratings by each metric, which explain all win rates at once."""
    made = []
    for metric, rated in of.found.get("ratings", {}).items():
        rows = [{"policy": name, **value} for name, value in rated.items()]
        tones = [colour(of.policies.index(name)) for name in rated]
        labels = [short(name) for name in rated]
        axes_label = "rating, Elo points; the mean is 0"
        made.append(_spans(f"ratings-{metric}", metric, axes_label, labels, rows, "value", tones))
    return made


def brittleness(of: Material) -> list[Chart]:
    """How far each metric moves where the same prompts are transformed."""
    moved: dict[str, list[dict[str, Any]]] = {}
    for policy, transformations in of.found.get("brittleness", {}).items():
        for transformation, metrics in transformations.items():
            for metric, found in metrics.items():
                moved.setdefault(metric, []).append({"policy": policy, "transformation": transformation, **found})
    made = []
    for metric, rows in moved.items():
        labels = [f"{short(row['policy'])}, {short(row['transformation'])}" for row in rows]
        tones = [colour(of.policies.index(row["policy"])) for row in rows]
        said = f"change of {metric} by the transformation"
        made.append(_spans(f"brittleness-{metric}", metric, said, labels, rows, "difference", tones))
    return made


def best_of(of: Material) -> list[Chart]:
    """What each metric gains where the first reward chooses among n replies."""
    found = of.found.get("best_of", {})
    return [_best_of(of, metric) for metric in dict.fromkeys(row["metric"] for rows in found.values() for row in rows)]


def _best_of(of: Material, metric: str) -> Chart:
    rows = [
        {"policy": policy, **row}
        for policy, curve in of.found["best_of"].items() for row in curve if row["metric"] == metric
    ]  # fmt: skip
    sizes = sorted({row["n"] for row in rows})
    with canvas(WIDTH, 280, 52, 24) as axes:
        for policy in dict.fromkeys(row["policy"] for row in rows):
            curve, tone = [row for row in rows if row["policy"] == policy], colour(of.policies.index(policy))
            ns, low, high = ([row[name] for row in curve] for name in ("n", "low", "high"))
            axes.fill_between(ns, low, high, color=tone, alpha=0.15, linewidth=0)
            axes.plot(ns, [row["value"] for row in curve], "o-", color=tone, markersize=4, linewidth=1.8)
            axes.annotate(
                short(policy), (ns[-1], curve[-1]["value"]), xytext=(-4, 7), textcoords="offset points", ha="right",
                color=tone, fontweight="bold",
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, list(map(str, sizes)))
        axes.minorticks_off()
        axes.set_xlabel("n, of which the first reward chooses the best")
        axes.set_ylabel(metric)
    said = "; ".join(f"{row['policy']} of {row['n']} {shown(row['value'])}" for row in rows)
    return Chart(f"best-of-{metric}", metric, f"{metric} of the best of n replies: {said}", rows, figure_of(axes))


def _spans(
    name: str, title: str, axis: str, labels: list[str], rows: list[dict[str, Any]], column: str, tones: list[str]
) -> Chart:  # fmt: skip
    left = room(labels)
    with canvas(max(WIDTH, left + LEAST), LINE * len(rows) + 48, left, 24) as axes:
        axes.axvline(0, color=LIGHT["ink"], linewidth=1)
        spans(axes, labels, [Span(r[column], r["low"], r["high"], tone) for r, tone in zip(rows, tones, strict=True)])
        axes.set_xlabel(axis)
    said = "; ".join(f"{label} {shown(row[column])}" for label, row in zip(labels, rows, strict=True))
    return Chart(name, title, f"{title}, {axis}: {said}", rows, figure_of(axes))
