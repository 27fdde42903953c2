"""A comparison as a table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from align.cli import text

ARROWS = {"higher": "↑", "lower": "↓", None: " "}


def show(folder: Path, title: str, console: Console) -> None:
    """Prints the comparison in a folder; nothing where there is none."""
    file = folder / "comparison.json"
    if file.is_file():
        console.print(comparison(json.loads(file.read_text()), title))


def comparison(found: Mapping[str, Any], title: str) -> Group:
    """Metrics by policies, each value with half the width of its 95 % interval.

    `+` and `-` mark what is better or worse than the first policy by more than a paired 95 % interval.
    """
    policies = found["policies"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in policies:
        table.add_column(name, justify="right", no_wrap=True)
    for metric, better in found["better"].items():
        cells = [_cell(found, metric, better, name) for name in policies]
        table.add_row(Text(f"{metric} {ARROWS[better]}"), *cells)
    first = next(iter(policies))
    caption = f"95 % intervals; arrows: what is better; + better, - worse than {first} (paired)"
    return Group(Text(f"\n{title}", style="bold"), table, Text(caption, style="dim"))


def _cell(found: Mapping[str, Any], metric: str, better: str | None, policy: str) -> Text:
    value = found["policies"][policy].get(metric)
    if value is None:
        return Text("")
    half = (value["high"] - value["low"]) / 2
    mark, style = _against_first(found["pairs"], metric, better, policy, next(iter(found["policies"])))
    return Text.assemble(text.number(value["value"]), (f" ±{half:.2g}", "dim"), (f" {mark}", style))


def _against_first(
    pairs: list[Mapping[str, Any]], metric: str, better: str | None, policy: str, first: str
) -> tuple[str, str]:
    for pair in pairs:
        if (pair["metric"], pair["policy"], pair["baseline"]) == (metric, policy, first):
            higher, lower = pair["low"] > 0, pair["high"] < 0
            if better and (higher or lower):
                return ("+", "green") if higher == (better == "higher") else ("-", "red")
    return " ", ""
