"""Figures for people: lines in the terminal, and the table of the README.

Saved figures, whoever wrote them, have one shape: the `date`, the `versions` and the `command` that they belong to, and
`tasks`, by name. A task has a `device`, a `unit` and how many of it there were `per_second`; where it was measured,
`useful_utilisation` and `peak_bytes`; and in `beside` what did the same work: `what` in which `setting`, how many
`times_faster` align was, and its `peak_bytes`. Three numbers are a median, the lowest and the highest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Figures = Mapping[str, Any]

HEAD = ("", "a second", "useful utilisation", "peak memory", "times as fast as others", "measured")
LIBRARIES = ("torch", "transformers", "trl")


def lines(task: str, row: Figures) -> list[str]:
    """A task's figures in a few lines."""
    made = [
        f"{task} on {row['device']}: {_spread(row['per_second'])} {row['unit']}/s, "
        f"{_spread(row['tokens_per_second'])} tokens/s, peak memory {_megabytes(row)}",
        f"  useful utilisation {_spread(row['useful_utilisation'])} of {row['matrix_rate'][0] / 1e9:,.1f} GFLOP/s"
        + (f"; MFU by 6 N + 12 L H Q T {_spread(row['mfu'])}" if row["mfu"] else ""),
        "  time: " + ", ".join(f"{name} {share:.0%}" for name, share in row["parts"].items()),
    ]
    made += [
        f"  {name}: {_spread([1000 * s for s in phase['seconds_each']])} ms each, useful utilisation "
        f"{_spread(phase['useful_utilisation'])}"
        for name, phase in row["phases"].items()
    ]
    made += [
        f"  {other['what']} ({other['setting']}) takes {_spread(other['times_faster'])} times as long, with "
        f"{_megabytes(other)}"
        for other in row.get("beside", ())
    ]
    if "loss_difference" in row:
        made.append(f"  every step's loss is the same to {row['loss_difference']:.1e}")
    return made


def markdown(results: Iterable[Figures]) -> str:
    """The README's table from saved results, a row a task, and beneath it how each was measured."""
    rows, notes = [HEAD, tuple("---" for _ in HEAD)], []
    for number, result in enumerate(results, 1):
        rows += [(*_cells(task, row), f"[{number}]") for task, row in result["tasks"].items()]
        devices = ", ".join(dict.fromkeys(row["device"] for row in result["tasks"].values()))
        versions = ", ".join(f"{name} {result['versions'][name]}" for name in LIBRARIES if name in result["versions"])
        notes.append(f"{number}. `{result['command']}`, {devices}; {versions}; {result['date']}")
    return "\n".join([*(f"| {' | '.join(cells)} |" for cells in rows), "", *notes])


def _cells(task: str, row: Figures) -> tuple[str, ...]:
    beside = (
        f"**{_spread(other['times_faster'], '{:.1f}')}** {other['what']}, {other['setting']}"
        + (f", {_megabytes(other)}" if "peak_bytes" in other else "")
        for other in row.get("beside", ())
    )
    return (
        task, f"{_spread(row['per_second'])} {row['unit']}",
        f"{row['useful_utilisation'][0]:.2f}" if "useful_utilisation" in row else "",
        _megabytes(row) if "peak_bytes" in row else "", "; ".join(beside),
    )  # fmt: skip


def _megabytes(row: Figures) -> str:
    return f"{row['peak_bytes'] / 2**20:,.0f} MB"


def _spread(values: list[float], form: str = "{:,.3g}") -> str:
    middle, low, high = (form.format(value) if value < 1000 else f"{value:,.0f}" for value in values)
    return middle if low == high else f"{middle} [{low}, {high}]"
