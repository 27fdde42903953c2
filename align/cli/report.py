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
GAP = 2
"""Blanks between columns."""


def show(folder: Path, title: str, console: Console) -> None:
    """Prints the comparison in a folder; nothing where there is none."""
    file = folder / "comparison.json"
    if file.is_file():
        console.print(comparison(json.loads(file.read_text()), title, console.width))


def comparison(found: Mapping[str, Any], title: str, width: int = 120) -> Group:
    """Metrics by policies, each value with half the width of its 95 % interval; as many tables as the width asks for.

    `+` and `-` mark what is better or worse than the first policy where the verdict says so.
    """
    policies, better = list(found["policies"]), found["better"]
    names = [f"{metric} {ARROWS[arrow]}" for metric, arrow in better.items()]
    columns = {p: [_cell(found, metric, arrow, p) for metric, arrow in better.items()] for p in policies}
    room = width - max(map(len, names), default=0)
    needs = {p: max(len(p), *(cell.cell_len for cell in cells)) + GAP for p, cells in columns.items()}
    parts: list[list[str]] = []
    for policy in policies:
        if not parts or sum(needs[p] for p in (*parts[-1], policy)) > room:
            parts.append([])
        parts[-1].append(policy)
    tables = [_table(names, {policy: columns[policy] for policy in part}) for part in parts]
    caption = (
        f"95 % intervals (rates: Wilson); arrows: what is better; + better, - worse than {policies[0]} (paired, Holm)"
    )
    notes, said = map(Text, found["notes"]), map(Text, headline(found))
    return Group(Text(f"\n{title}", style="bold"), *tables, *notes, Text(caption, style="dim"), *said)


def headline(found: Mapping[str, Any]) -> list[str]:
    """The verdicts of the first metric that has a better side; all of them are in comparison.md."""
    first = next((metric for metric, better in found["better"].items() if better), None)
    return [verdict for verdict in found["verdicts"] if verdict.startswith(f"{first}: ")]


def _table(names: list[str], columns: Mapping[str, list[Text]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for policy in columns:
        table.add_column(policy, justify="right", no_wrap=True)
    for name, *cells in zip(names, *columns.values(), strict=True):
        table.add_row(Text(name), *cells)
    return table


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
        here = (pair["metric"], pair["policy"], pair["baseline"]) == (metric, policy, first)
        if here and better and pair["sure"]:
            wins = (pair["difference"] > 0) == (better == "higher")
            return ("+", "green") if wins else ("-", "red")
    return " ", ""
