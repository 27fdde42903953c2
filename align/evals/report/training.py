"""The charts of how checkpoints were made: training curves, reward models, and the graph of artifacts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from align.evals.report.draw import LIGHT, Chart, Span, canvas, colour, figure_of, room, short, smooth, spans
from align.evals.report.material import Curve, Made, Material
from align.evals.statistics import shown
from align.store import Ancestor

WATCHED = ("loss", "accuracy", "margin", "reward", "kl", "entropy", "stop", "explained_variance")
"""What is drawn of a stage's history, the most telling first; validation and held-out figures come before them."""
MOST = 4
"""Curves a stage."""
PANEL = 290
BOX, GAP, LINE = 132, 46, 46
"""Width of an artifact's box, and the space between columns and rows of boxes."""


def curves(of: Material) -> list[Chart]:
    """The training histories of all stages."""
    return [chart for stage in of.stages for chart in _curves(of, stage)]


def _curves(of: Material, stage: Made) -> list[Chart]:
    known = {name: curve for name, curve in stage.curves.items() if len(curve[0]) > 1}
    held_out = [name for name in known if name.startswith(("validation", "held_out"))]
    wanted = [*held_out, *(name for name in WATCHED if name in known)][:MOST]
    tone = colour(of.policies.index(stage.name)) if stage.name in of.policies else LIGHT["ink"]
    return [_curve(stage.name, name, known[name], tone) for name in wanted]


def _curve(stage: str, metric: str, curve: Curve, tone: str) -> Chart:
    steps, values = curve
    with canvas(PANEL, 180, 52, 10, 10, 34) as axes:
        axes.plot(steps, values, color=tone, linewidth=0.8, alpha=0.35)
        axes.plot(steps, smooth(values), color=tone, linewidth=1.8)
        axes.set_xlabel("step")
        axes.set_xlim(0, steps[-1])
        axes.locator_params(nbins=5)
        axes.margins(y=0.08)
    alt = f"{metric} of {stage} over {len(steps)} steps: from {shown(values[0])} to {shown(values[-1])}"
    rows = [{"step": int(at), metric: value} for at, value in zip(steps, values, strict=True)]
    return Chart(f"training-{stage}-{metric}", f"{stage}: {metric}", alt, rows, figure_of(axes))


def accuracies(of: Material) -> list[Chart]:
    """Reward models on held-out pairs, each beside the rule that knows lengths only; chance is a half."""
    rows = []
    for stage in of.stages:
        found = stage.artifact.metrics
        for who, prefix in ((stage.name, "test_accuracy"), ("a rule by length", "length_accuracy")):
            if prefix in found:
                low, high = found[f"{prefix}_low"], found[f"{prefix}_high"]
                rows.append({"reward": who, "accuracy": found[prefix], "low": low, "high": high})
    if not rows:
        return []
    labels = [short(row["reward"]) for row in rows]
    with canvas(430, 26 * len(rows) + 52, room(labels), 24) as axes:
        tones = [LIGHT["ink" if i % 2 == 0 else "muted"] for i in range(len(rows))]
        spans(
            axes, labels, [Span(r["accuracy"], r["low"], r["high"], tone) for r, tone in zip(rows, tones, strict=True)]
        )
        axes.axvline(0.5, color=LIGHT["muted"], linewidth=1, linestyle=(0, (3, 3)))
        axes.set_xlim(min(0.45, *(row["low"] for row in rows)), 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlabel("right on held-out pairs; dashed: chance")
    alt = "Accuracy on held-out pairs: " + "; ".join(f"{row['reward']} {row['accuracy']:.1%}" for row in rows)
    return [Chart("reward-accuracy", "Accuracy on held-out pairs", alt, rows, figure_of(axes))]


def calibrations(of: Material) -> list[Chart]:
    """Of each tested reward model, how often it was right when it was so sure."""
    return [_calibration(stage.name, stage.calibration) for stage in of.stages if stage.calibration]


def _calibration(name: str, rows: list[dict[str, Any]]) -> Chart:
    with canvas(PANEL, 250, 52, 16) as axes:
        axes.plot([0.5, 1], [0.5, 1], color=LIGHT["muted"], linewidth=1, linestyle=(0, (3, 3)))
        for row in rows:
            axes.plot([row["said"]] * 2, [row["low"], row["high"]], color=LIGHT["ink"], linewidth=2)
        axes.plot([row["said"] for row in rows], [row["happened"] for row in rows], "o", color=LIGHT["ink"])
        axes.set_xlim(0.48, 1.02)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlabel("how sure it was; dashed: calibrated")
        axes.set_ylabel("how often it was right")
    alt = f"Calibration of {name}: " + "; ".join(
        f"{row['happened']:.0%} right where {row['said']:.0%} sure, n = {row['n']}" for row in rows
    )
    return Chart(f"calibration-{name}", f"{name}: calibration on held-out pairs", alt, rows, figure_of(axes))


def lineage(of: Material) -> list[Chart]:
    """The artifacts as a graph, from what came from outside on the left to the comparison on the right."""
    if of.lineage is None or not of.lineage.inputs:
        return []
    nodes, edges = _graph(of.lineage)
    columns, ways = _columns(nodes, edges)
    at = {
        key: (x * (BOX + GAP), (y - (len(keys) - 1) / 2) * LINE)
        for x, keys in enumerate(columns) for y, key in enumerate(keys)
    }  # fmt: skip
    width, height = len(columns) * (BOX + GAP) - GAP + 8, max(map(len, columns)) * LINE + 8
    with canvas(width, height, 0, 0, 0, 0) as axes:
        axes.set_xlim(-4, width - 4)
        axes.set_ylim(height / 2, -height / 2)
        axes.axis("off")
        for way in ways:
            axes.add_patch(PathPatch(_way([at[key] for key in way]), fill=False, edgecolor=LIGHT["muted"], alpha=0.6))
        for key, (name, kind) in nodes.items():
            x, y = at[key]
            tone = colour(of.policies.index(name)) if name in of.policies else LIGHT["muted"]
            style = "round,pad=0,rounding_size=5"
            axes.add_patch(FancyBboxPatch((x, y - 16), BOX, 32, style, facecolor=LIGHT["paper"], edgecolor=tone,
                                          linewidth=1.8 if name in of.policies else 1))  # fmt: skip
            axes.text(x + 9, y - 4, short(name), va="center", fontweight="bold", fontsize=10.5)
            axes.text(x + 9, y + 9, kind, va="center", fontsize=9, color=LIGHT["muted"])
    rows = [{"artifact": nodes[child][0], "made_from": nodes[parent][0]} for child, parent in edges]
    alt = "Lineage: " + "; ".join(f"{row['artifact']} from {row['made_from']}" for row in rows)
    return [Chart("lineage", "Lineage", alt, rows, figure_of(axes))]


def _graph(root: Ancestor) -> tuple[dict[str, tuple[str, str]], list[tuple[str, str]]]:
    """key -> (name, what it is), and (child, parent) of every edge, each once."""
    nodes: dict[str, tuple[str, str]] = {}
    edges: dict[tuple[str, str], None] = {}
    waiting = [root]
    while waiting:
        here = waiting.pop()
        if here.key in nodes:
            continue
        what = here.artifact.manifest["type"] if here.artifact else "comparison" if here is root else "from outside"
        nodes[here.key] = (here.name, what)
        edges |= {(here.key, taken.key): None for taken in here.inputs}
        waiting += here.inputs[::-1]
    return nodes, list(edges)


def _columns(nodes: Collection[str], edges: Sequence[tuple[str, str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Keys by column, parents to the left of their children, and each edge as the keys that it passes.

    Layers by longest path, a place of its own for an edge in each column that it crosses, and columns sorted by the
    mean place of their neighbours (Sugiyama, Tagawa and Toda 1981).
    """
    depth = _depths(nodes, edges)
    columns: list[list[str]] = [[k for k in nodes if depth[k] == x] for x in range(max(depth.values()) + 1)]
    ways = []
    for child, parent in edges:
        between = [f"{parent}-{child}-{x}" for x in range(depth[parent] + 1, depth[child])]
        for x, key in enumerate(between, depth[parent] + 1):
            columns[x].append(key)
        ways.append([parent, *between, child])
    steps = {step for way in ways for step in pairwise(way)}
    forth = list(pairwise(range(len(columns))))
    for fixed, sorted_ in [*forth, *((right, left) for left, right in forth[::-1])] * 4:
        rank = {key: i - (len(columns[fixed]) - 1) / 2 for i, key in enumerate(columns[fixed])}
        ties = {key: [rank[o] for step in steps for o in step if key in step and o in rank] for key in columns[sorted_]}
        columns[sorted_].sort(key=lambda key, ties=ties: float(np.mean(ties[key])) if ties[key] else 0.0)
    return columns, ways


def _depths(nodes: Collection[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Each key's column: right of all its parents; what has none stands just left of its first child."""
    depth = dict.fromkeys(nodes, 0)
    for _ in nodes:
        for child, parent in edges:
            depth[child] = max(depth[child], depth[parent] + 1)
    for key in nodes:
        below = [depth[child] for child, parent in edges if parent == key]
        if below and not any(child == key for child, _ in edges):
            depth[key] = min(below) - 1
    return depth


def _way(places: Sequence[tuple[float, float]]) -> Path:
    """A smooth line from the right side of the first box, straight through the columns between, to the last box."""
    (x, y), *rest = places
    points, codes = [(x + BOX, y)], [Path.MOVETO]
    for x, y in rest:
        from_x, from_y = points[-1]
        middle = (from_x + x) / 2
        points += [(middle, from_y), (middle, y), (x, y), (x + BOX, y)]
        codes += [Path.CURVE4] * 3 + [Path.LINETO]
    return Path(points[:-1], codes[:-1])
