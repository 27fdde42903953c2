"""Figures for people: lines in the terminal, and the table of the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

HEAD = (
    "", "examples/s", "tokens/s", "useful utilisation", "peak memory", "beside TRL at its fastest",
    "beside TRL as it comes", "command",
)  # fmt: skip


def lines(task: str, row: Mapping[str, Any]) -> list[str]:
    """A task's figures in a few lines."""
    made = [
        f"{task} on {row['device']}: {_spread(row['examples_per_second'])} examples/s, "
        f"{_spread(row['tokens_per_second'])} tokens/s, peak memory {row['peak_bytes'] / 2**20:,.0f} MB",
        f"  useful utilisation {_spread(row['useful_utilisation'])} of {row['matrix_rate'][0] / 1e9:,.1f} GFLOP/s"
        + (f"; MFU by 6 N + 12 L H Q T {_spread(row['mfu'])}" if row["mfu"] else ""),
        "  time: " + ", ".join(f"{name} {share:.0%}" for name, share in row["parts"].items()),
    ]
    made += [
        f"  {name}: {_spread([1000 * s for s in phase['seconds_each']])} ms each, useful utilisation "
        f"{_spread(phase['useful_utilisation'])}"
        for name, phase in row["phases"].items()
    ]
    if "trl" in row:
        made.append(
            f"  TRL at its fastest ({row['trl']['setting']}) takes {_spread(row['times_faster'])} times as long, with "
            f"{row['trl']['peak_bytes'] / 2**20:,.0f} MB; every step's loss is the same to {row['loss_difference']:.1e}"
        )
        plain = row["as_it_comes"]
        made.append(
            f"  TRL as it comes ({plain['setting']}) takes {plain['times_faster']:.3g} times as long, with "
            f"{plain['peak_bytes'] / 2**20:,.0f} MB"
        )
    return made


def markdown(results: Iterable[Mapping[str, Any]]) -> str:
    """The README's table from saved results, a row a task."""
    rows = [HEAD, tuple("---" for _ in HEAD)]
    for result in results:
        for task, row in result["tasks"].items():
            beside = ["", ""]
            if "trl" in row:
                plain = row["as_it_comes"]
                beside = [_beside(row["times_faster"][0], row["trl"]), _beside(plain["times_faster"], plain)]
            rows.append((
                task, _spread(row["examples_per_second"]), _spread(row["tokens_per_second"]),
                f"{row['useful_utilisation'][0]:.2f}", f"{row['peak_bytes'] / 2**20:,.0f} MB", *beside,
                f"`{result['command']}`",
            ))  # fmt: skip
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _beside(times: float, trl: Mapping[str, Any]) -> str:
    return f"**{times:.1f}** times as fast; {trl['setting']}, {trl['peak_bytes'] / 2**20:,.0f} MB"


def _spread(values: list[float]) -> str:
    middle, low, high = (f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values)
    return middle if low == high else f"{middle} [{low}, {high}]"
