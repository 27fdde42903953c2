"""Puts a report together: charts, tables and sentences into the template, replies into packed data."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from importlib.resources import files
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from align.evals.report import words
from align.evals.report.charts import charts
from align.evals.report.draw import POLICIES, Chart, stylesheet
from align.evals.report.further import best_of, brittleness, ratings
from align.evals.report.material import Material
from align.evals.report.principles import Shaping
from align.evals.report.samples import packed, scored
from align.evals.report.training import accuracies, calibrations, curves, lineage
from align.evals.statistics import shown

CONTENTS = {
    "metrics": "Metrics",
    "differences": "Differences",
    "frontier": "Cost",
    "replies": "Replies",
    "principles": "Principles",
    "distributions": "Spread",
    "brittleness": "Brittleness",
    "rewards": "Reward models",
    "training": "Training",
    "lineage": "Lineage",
    "method": "Method",
}
"""Sections, as the navigation calls them."""


def write(of: Material, file: Path, figures: Path | None = None) -> None:
    """Writes the report; with `figures`, every chart as PNG and CSV into that folder too."""
    drawn = charts(of) | {"ratings": ratings(of), "best_of": best_of(of), "brittleness": brittleness(of)}
    drawn |= {"rewards": accuracies(of) + calibrations(of), "training": curves(of), "lineage": lineage(of)}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.write_text(_page(of, drawn), "utf-8")
    part.replace(file)
    if figures is not None:
        for chart in chain.from_iterable(drawn.values()):
            chart.save(figures)


def _page(of: Material, drawn: dict[str, list[Chart]]) -> str:
    environment = Environment(
        loader=PackageLoader("align.evals.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shaping = Shaping(of)
    data, kept, rows = packed(of, shaping)
    principles = shaping.principles()
    script = _asset("replies.js")
    there = {name for name, made in drawn.items() if made} | {"metrics", "method"}
    there |= ({"replies"} if of.replies else set()) | ({"principles"} if principles else set())
    return environment.get_template("page.html").render(
        of=of, charts=drawn, data=data, kept=kept, rows=rows, has_replies=bool(of.replies), scored=scored(of),
        script=script, script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        colours=stylesheet(), colours_count=POLICIES, style=_asset("style.css"),
        contents=[(id, name) for id, name in CONTENTS.items() if id in there],
        tone={name: i % POLICIES for i, name in enumerate(of.policies)},
        headline=words.headline(of.found), against=words.against_first(of.found), first_metric=_first_metric(of),
        leader=next(reversed(words.leaders(of.found) or of.policies)),
        principles=principles, basis=_basis(of), scores=_scores(of), verdicts=_verdicts(of), stages=_stages(of),
        has_ways=any(row["kind"] == "training" for chart in drawn["frontier"] for row in chart.rows),
        held_out=[(stage.name, stage.verdict) for stage in of.stages if stage.verdict],
        reward_notes=[(s.name, note) for s in of.stages if s.artifact.kind == "reward" for note in s.notes],
        shown=shown, keys=_keys, cell=_cell,
    )  # fmt: skip


def _asset(name: str) -> str:
    return (files("align.evals.report") / name).read_text("utf-8")


def _first_metric(of: Material) -> list[str]:
    """The sure verdicts about the first metric and those who lead by it, without what the headline says."""
    start, best = f"{next(iter(of.better), '')}: ", words.leaders(of.found)
    told = [v for v in _verdicts(of) if v["pair"] and v["sure"] and v["text"].startswith(start)]
    about = [v for v in told if v["pair"]["policy"] in best or v["pair"]["baseline"] in best]
    return [verdict["text"].removeprefix(start) for verdict in about]


def _verdicts(of: Material) -> list[dict[str, Any]]:
    """Each verdict with the pair that it is about: there is one for each pair of a metric with a better side."""
    pairs = [pair for pair in of.found["pairs"] if pair["metric"] in of.better]
    return [
        {"text": text, "pair": pair, "sure": pair is None or pair["sure"]}
        for text, pair in zip(of.found["verdicts"], chain(pairs, repeat(None)), strict=False)
    ]


def _scores(of: Material) -> list[dict[str, Any]]:
    """One row a metric: each policy's value, where its interval lies on the row's scale, and its mark."""
    made = []
    for metric, side in of.found["better"].items():
        values = [of.found["policies"][name].get(metric) for name in of.policies]
        ends = [end for value in values if value for end in (value["low"], value["high"])]
        low, width = min(ends), (max(ends) - min(ends)) or 1.0
        cells = [
            value and {
                **value, "a": round((value["low"] - low) / width, 4), "b": round((value["high"] - low) / width, 4),
                "m": round((value["value"] - low) / width, 4), "mark": _mark(of, metric, side, name),
            }
            for name, value in zip(of.policies, values, strict=True)
        ]  # fmt: skip
        made.append({"metric": metric, "side": side, "cells": cells})
    return sorted(made, key=lambda row: not row["side"])


def _mark(of: Material, metric: str, side: str | None, policy: str) -> str:
    for pair in of.found["pairs"]:
        if (pair["metric"], pair["policy"], pair["baseline"]) == (metric, policy, of.policies[0]):
            wins = (pair["difference"] > 0) == (side == "higher")
            return ("good" if wins else "bad") if side and pair["sure"] else ""
    return ""


def _basis(of: Material) -> str:
    """What all of it rests on, in one line."""
    settings = of.found["settings"]
    asked, n = settings.get("prompts"), settings.get("n", 1)
    within = f" in {settings['clusters']} clusters" if "clusters" in settings else ""
    replies = f", {asked} prompts{within}, {f'{n} replies' if n > 1 else 'one reply'} to each" if asked else ""
    benchmarks = sum(name.startswith("benchmark ") for name in settings)
    told = f", {benchmarks} benchmark{'s' * (benchmarks > 1)}" if benchmarks else ""
    return f"{len(of.policies)} checkpoints{replies}{told}, seed {settings.get('seed')}."


def _stages(of: Material) -> list[Sequence[str]]:
    made = []
    for stage in of.stages:
        manifest = stage.manifest
        parents = ", ".join(dict.fromkeys(stage.inputs.values()))
        when = str(manifest["finished"])[:16].replace("T", " ")
        made.append((stage.name, manifest["type"], parents, stage.artifact.key[:12], f"{manifest['seconds']:.0f} s",
                     when, manifest["device"]))  # fmt: skip
    return made


def _keys(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(part)}" for name, part in value.items())
    return shown(value) if isinstance(value, float) else "" if value is None else str(value)
