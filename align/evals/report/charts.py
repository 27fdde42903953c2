"""The charts of a comparison: who is better and how surely, at what distance from the base, and how scores spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from align.evals.report.draw import LIGHT, Chart, Span, canvas, colour, figure_of, room, short, smooth, spans
from align.evals.report.material import Made, Material
from align.evals.statistics import shown

WIDTH = 430
"""Of charts, in CSS pixels: two stand beside each other on a wide screen, one can still be read on a phone."""
LIKELIHOOD = ("nll", "perplexity")
"""Metrics of given text, not of replies."""
BINS = 40
CELL = 84
"""Pixels for two percentages."""
LEAST = 160
"""Pixels for what is drawn between labels."""
ROW = 21
"""Pixels between two rows of a forest plot."""


def charts(of: Material) -> dict[str, list[Chart]]:
    """Section -> its charts."""
    return {
        "differences": [forest(of, metric) for metric in of.better if _pairs(of, metric)],
        "wins": [wins(of, metric) for metric in of.better if len(of.policies) > 2 and _pairs(of, metric)]
        + [wins(of, judge) for judge in of.found.get("judges", {}) if _win_rates(of, judge)],
        "frontier": list(frontiers(of)),
        "distributions": list(distributions(of)),
    }


def forest(of: Material, metric: str) -> Chart:
    """Paired differences with their intervals, one row a pair; what is not sure is hollow."""
    pairs = sorted(_pairs(of, metric), key=lambda p: -abs(p["difference"]))
    labels = [f"{short(p['policy'])} - {short(p['baseline'])}" for p in pairs]
    said = [f"{shown(p['difference'], '+')} [{shown(p['low'])}, {shown(p['high'])}]" for p in pairs]
    left, right = room(labels), room(said)
    with canvas(max(WIDTH, left + right + LEAST), ROW * len(pairs) + 46, left, right) as axes:
        spans(axes, labels, [_span(pair, of.better[metric]) for pair in pairs])
        for y, text in enumerate(said):
            axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=10)
        axes.axvline(0, color=LIGHT["ink"], linewidth=1)
        axes.set_xlabel(f"difference in {metric} ({of.better[metric]} is better)")
    alt = f"Paired differences in {metric}: " + "; ".join(map(" ".join, zip(labels, said, strict=True)))
    return Chart(f"difference-{metric}", metric, alt, pairs, figure_of(axes))


def _span(pair: Mapping[str, Any], side: str) -> Span:
    good = (pair["difference"] > 0) == (side == "higher")
    tone = LIGHT["better" if good else "worse"] if pair["sure"] else LIGHT["muted"]
    return Span(pair["difference"], pair["low"], pair["high"], tone, pair["sure"])


def wins(of: Material, metric: str) -> Chart:
    """How often each policy's reply scores better than each other's; ties count half."""
    names, labels = of.policies, [short(name) for name in of.policies]
    rates = _win_rates(of, metric)
    left, height = room(labels), 40
    width = left + max(CELL, room(labels)) * len(names)
    with canvas(width, height * len(names) + 30, left, 0, 28, 2) as axes:
        for found in rates:
            row, column, rate = names.index(found["policy"]), names.index(found["baseline"]), found["rate"]
            tone, equal = LIGHT["better" if rate >= 0.5 else "worse"], found["at_equal_length"]
            axes.add_patch(_square(row, column, tone, 0.08 + 0.72 * abs(rate - 0.5) * 2))
            text = f"{rate:.0%}" if equal is None else f"{rate:.0%} ({equal:.0%})"
            axes.text(column, row, text, ha="center", va="center", fontsize=11)
        axes.set_xticks(range(len(names)), labels)
        axes.set_yticks(range(len(names)), labels)
        axes.xaxis.set_ticks_position("top")
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(labelcolor=LIGHT["ink"])
    said = "; ".join(f"{found['policy']} against {found['baseline']} {found['rate']:.0%}" for found in rates)
    return Chart(f"wins-{metric}", metric, f"Win rates by {metric}: {said}", rates, figure_of(axes))


def frontiers(of: Material) -> Iterator[Chart]:
    """Each reward against the distance from the base, with the way that training took where its units are the same."""
    base = of.found["settings"].get("base")
    far = {name: values["kl"] for name, values in of.found["policies"].items() if "kl" in values}
    if not far:
        return
    nowhere = {"value": 0.0, "low": 0.0, "high": 0.0}
    for metric in (m for m in of.better if m not in LIKELIHOOD):
        points = {
            name: (nowhere if name == base else far.get(name), values.get(metric))
            for name, values in of.found["policies"].items()
        }
        yield _frontier(of, metric, {n: (kl, v) for n, (kl, v) in points.items() if kl and v}, _ways(of, metric))


def _frontier(of: Material, metric: str, points: Mapping[str, Any], ways: Mapping[str, Any]) -> Chart:
    with canvas(WIDTH, 270, 52, 16) as axes:
        for name, way in ways.items():
            kl, values = (smooth(numbers) for numbers in way)
            axes.plot(kl, values, color=colour(of.policies.index(name)), linewidth=1.4, alpha=0.5)
        for name, (kl, value) in points.items():
            tone = colour(of.policies.index(name))
            axes.plot([kl["low"], kl["high"]], [value["value"]] * 2, color=tone, linewidth=1.5)
            axes.plot([kl["value"]] * 2, [value["low"], value["high"]], color=tone, linewidth=1.5)
            axes.plot(kl["value"], value["value"], "o", color=tone, markersize=7)
        axes.margins(0.08, 0.1)
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
        _label(axes, {name: (kl["value"], value["value"]) for name, (kl, value) in points.items()}, of.policies)
        axes.set_xlabel("KL to the base, nats a token")
        axes.set_ylabel(metric)
    rows = [
        {"policy": name, "kind": "checkpoint", "step": "", "kl": kl["value"], "kl_low": kl["low"],
         "kl_high": kl["high"], metric: v["value"], "low": v["low"], "high": v["high"]}
        for name, (kl, v) in points.items()
    ] + [
        {"policy": name, "kind": "training", "step": i + 1, "kl": x, metric: y}
        for name, way in ways.items() for i, (x, y) in enumerate(zip(*way, strict=True))
    ]  # fmt: skip
    alt = f"{metric} against KL to the base: " + "; ".join(
        f"{name} {shown(v['value'])} at {shown(kl['value'])}" for name, (kl, v) in points.items()
    )
    return Chart(f"frontier-{metric}", metric, alt, rows, figure_of(axes))


def _ways(of: Material, metric: str) -> dict[str, tuple[list[float], list[float]]]:
    """policy -> KL and reward of each training step, where both are measured as the comparison does."""
    base = of.found["settings"].get("base")
    made = {}
    for stage in of.stages:
        scale = _scale(stage, metric)
        fits = stage.name in of.policies and stage.inputs.get("policy") == base and scale
        if fits and f"reward_{metric}" in stage.curves and "kl" in stage.curves:
            rewards = stage.curves[f"reward_{metric}"][1]
            made[stage.name] = (stage.curves["kl"][1], [reward / scale for reward in rewards])
    return made


def _scale(stage: Made, metric: str) -> float:
    """What a training stage multiplied this reward by; 0 where that cannot be told."""
    wanted = stage.manifest["fields"].get("reward")
    for part in wanted if isinstance(wanted, list) else [wanted]:
        if part == f"${metric}":
            return 1.0
        if isinstance(part, dict) and part.get("name") == metric:
            return part.get("scale", 1.0)
    return 0.0


def distributions(of: Material) -> Iterator[Chart]:
    """How the scores of replies spread, a row for each policy; metrics that only say yes or no are left out."""
    for metric in of.better:
        scores = {
            name: np.array([s.scores[metric] for s in samples if metric in s.scores])
            for name, samples in of.replies.items()
        }
        scores = {name: values for name, values in scores.items() if len(values)}
        if scores and len(np.unique(np.concatenate(list(scores.values())))) > 2:
            yield _distribution(of, metric, scores)


def _distribution(of: Material, metric: str, scores: Mapping[str, np.ndarray]) -> Chart:
    edges = _edges(np.concatenate(list(scores.values())))
    counts = {name: np.histogram(values, edges)[0] / len(values) for name, values in scores.items()}
    tallest = max(count.max() for count in counts.values())
    height, rows, labels = 44, [], [short(name) for name in scores]
    with canvas(WIDTH, height * len(scores) + 48, room(labels), 12) as axes:
        for y, (name, values) in enumerate(scores.items()):
            tone, foot = colour(of.policies.index(name)), float(len(scores) - 1 - y)
            bars = foot + 0.86 * counts[name] / tallest
            axes.stairs(bars, edges, baseline=foot, fill=True, color=tone, alpha=0.35, linewidth=0)
            axes.stairs(bars, edges, baseline=foot, color=tone, linewidth=1.2)
            axes.plot([values.mean()] * 2, [foot, foot + 0.86], color=tone, linewidth=2)
            rows += [
                {"policy": name, "from": low, "to": high, "share": share}
                for low, high, share in zip(edges[:-1], edges[1:], counts[name], strict=True)
            ]
        axes.set_yticks([len(scores) - 1 - y + 0.2 for y in range(len(scores))], labels)
        axes.set_ylim(-0.05, len(scores))
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", labelcolor=LIGHT["ink"])
        axes.set_xlabel(f"{metric} of a reply")
    alt = f"Distribution of {metric}: " + "; ".join(
        f"{name}, median {shown(float(np.median(v)))}, middle half {shown(float(np.quantile(v, 0.25)))} to "
        f"{shown(float(np.quantile(v, 0.75)))}" for name, v in scores.items()
    )  # fmt: skip
    return Chart(f"distribution-{metric}", metric, alt, rows, figure_of(axes))


def _edges(values: np.ndarray) -> np.ndarray:
    """Bins of equal width; where there are few values, one around each."""
    known = np.unique(values)
    if len(known) > BINS:
        return np.linspace(known[0], known[-1], BINS + 1)
    half = np.diff(known).min() / 2
    return np.unique(np.concatenate([known - half, known + half]).round(9))


def _pairs(of: Material, metric: str) -> list[dict[str, Any]]:
    return [pair for pair in of.found["pairs"] if pair["metric"] == metric]


def _win_rates(of: Material, metric: str) -> list[dict[str, Any]]:
    """Each policy against each other, both ways; from wins on prompts where the comparison has no rates of replies."""
    told = [found for found in of.found.get("win_rates", ()) if found["metric"] == metric]
    rates = []
    for found in told or [_by_prompt(pair, of.better[metric]) for pair in _pairs(of, metric)]:
        equal = (found.get("controlled") or {}).get("rate")
        row = {name: found.get(name) for name in ("policy", "baseline", "rate", "low", "high", "n")}
        rates.append(row | {"at_equal_length": equal})
        turned = {
            "rate": 1 - row["rate"],
            "low": row["high"] and 1 - row["high"],
            "high": row["low"] and 1 - row["low"],
        }
        turned |= {"policy": row["baseline"], "baseline": row["policy"]}
        rates.append(row | turned | {"at_equal_length": equal and 1 - equal})
    return rates


def _by_prompt(pair: Mapping[str, Any], side: str) -> dict[str, Any]:
    higher = (pair["win"] + pair["tie"] / 2) / pair["n"]
    return {**pair, "rate": higher if side == "higher" else 1 - higher, "low": None, "high": None}


def _square(row: int, column: int, tone: str, alpha: float) -> Rectangle:
    return Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, color=tone, alpha=alpha, linewidth=0)


def _label(axes: Axes, points: Mapping[str, tuple[float, float]], policies: Sequence[str]) -> None:
    """Writes each point's name beside it, to the inner side, and higher up where another's stands already."""
    pixels = axes.transData.transform(list(points.values())) * 72 / figure_of(axes).dpi
    middle = (pixels[:, 0].min() + pixels[:, 0].max()) / 2
    places = {name: (x > middle, y) for name, (x, y) in zip(points, pixels, strict=True)}
    last = {True: -float("inf"), False: -float("inf")}
    for name, (inward, y) in sorted(places.items(), key=lambda item: item[1]):
        last[inward] = max(y, last[inward] + 14)
        axes.annotate(
            short(name), points[name], xytext=(-9 if inward else 9, 6 + last[inward] - y), textcoords="offset points",
            ha="right" if inward else "left", color=colour(policies.index(name)), fontweight="bold",
        )  # fmt: skip
