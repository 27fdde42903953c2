"""Three ways to watch a run: a live table on a terminal, lines in a log, JSON for programs.

Each is a context manager that is called with every event of the run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from align.cli import text
from align.cli.progress import Progress, Row

MARKS = {
    "waiting": ("·", "dim"),
    "cached": ("✓", "dim green"),
    "done": ("✓", "green"),
    "failed": ("✗", "red"),
    "skipped": ("-", "yellow"),
    "interrupted": ("‖", "yellow"),
}
WIDE = 100
"""From this many columns on, stages are shown with their kind and a longer bar."""
WATCHED = ("reward", "kl", "entropy", "loss", "accuracy")
"""Metrics of a step that are shown while it trains; the others are in the events."""
LOG_SECONDS = 15
"""A log gets a line about a stage that is at work at most this often."""


class Display(Protocol):
    """Shows the events of a run; `progress` is what they add up to."""

    progress: Progress

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def __call__(self, event: Mapping[str, Any]) -> None: ...


class JsonLines:
    """Every event as one line of JSON."""

    def __init__(self, file: TextIO):
        self.file = file
        self.progress = Progress()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, event: Mapping[str, Any]) -> None:
        self.progress.add(event, time.monotonic())
        print(json.dumps(event, default=str), file=self.file, flush=True)


class LogLines:
    """A few plain lines for each stage; quiet enough for CI."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self.console, self.clock = console, clock
        self.progress = Progress()
        self._said = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, event: Mapping[str, Any]) -> None:
        now = self.clock()
        row = self.progress.add(event, now)
        for line in self._lines(event, row, now):
            self._said = now
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _lines(self, event: Mapping[str, Any], row: Row | None, now: float) -> Iterator[str]:
        match event["event"]:
            case "run_started":
                count = len(self.progress.rows)
                yield f"{event['recipe']}: {count} stage{'s' if count > 1 else ''}"
            case "note" | "sample" | "loop_decided":
                yield note_line(*self.progress.notes[-1])
            case "stage_cached" | "stage_finished" | "stage_failed" | "stage_skipped" if row:
                yield f"{row.name}: {outcome(row)}"
            case "stage_started" if row:
                yield f"{row.name}: started"
            case "step" | "progress" if row and now - self._said >= LOG_SECONDS:
                yield f"{row.name}: {'  '.join(running(row, now))}"


class LiveTable:
    """A table that redraws itself: one row a stage, notes above it."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self.console, self.clock = console, clock
        self.progress = Progress()
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(get_renderable=self.render, console=console, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        self.progress.add(event, self.clock())
        if event["event"] in ("note", "sample", "loop_decided"):
            stage, level, what = self.progress.notes[-1]
            style = "yellow" if level == "warning" else "dim"
            self.console.print(Text(note_line(stage, level, what), style=style))

    def render(self) -> RenderableType:
        """The table as it stands now."""
        if not self.progress.rows:
            return Text("reading the recipe", style="dim")
        now = self.clock()
        ended = self.progress.count("cached", "done", "failed", "skipped")
        begun = self.progress.count("running", "done", "failed", "skipped", "interrupted")
        head = Text.assemble(
            (self.progress.recipe, "bold"),
            (f"  {ended} of {len(self.progress.rows)} stages", "dim"),
            ("" if begun else "  checking", "dim"),
            (f"  {text.duration(now - self.progress.started)}", "dim"),
        )
        wide = self.console.width >= WIDE
        table = Table.grid(padding=(0, 2, 0, 0))
        for width in (1, *self._widths(wide)):
            table.add_column(width=width, no_wrap=True, overflow="ellipsis")
        for row in self.progress.rows.values():
            table.add_row(*self._cells(row, now, wide))
        return Group(head, table)

    def _widths(self, wide: bool) -> tuple[int, ...]:
        rows = self.progress.rows.values()
        name = min(max(len(row.name) for row in rows), 24)
        return (name, max(len(row.kind) for row in rows)) if wide else (name,)

    def _cells(self, row: Row, now: float, wide: bool) -> Iterator[RenderableType]:
        mark, style = MARKS.get(row.state, ("", ""))
        yield self._spinner if row.state == "running" else Text(mark, style=style)
        yield Text(row.name, style="dim" if row.state == "waiting" else "bold" if row.state == "running" else "")
        if wide:
            yield Text(row.kind, style="dim")
        yield _running_cell(row, now, wide) if row.state == "running" else _line(outcome(row), _tone(row))


def _running_cell(row: Row, now: float, wide: bool) -> RenderableType:
    words = running(row, now)
    count = row.steps if row.steps.total else row.part
    if not count.total:
        return _line("  ".join(words))
    bar = ProgressBar(total=count.total, completed=count.done, width=24 if wide else 10)
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_row(_line(words[0]), bar, _line("  ".join(words[1:])))
    return line


def _line(what: str, style: str = "") -> Text:
    return Text(what, style=style, no_wrap=True, overflow="ellipsis")


def _tone(row: Row) -> str:
    return {"failed": "red", "skipped": "yellow", "interrupted": "yellow"}.get(row.state, "dim")


def running(row: Row, now: float) -> list[str]:
    """What a running stage is doing: steps, time left, what is watched, tokens a second; the most wanted is first."""
    words = [str(row.steps)] if row.steps.total else []
    words += [f"{row.doing} {row.part}"] if row.doing else []
    left = row.steps.left(now) if row.steps.total > row.steps.done else row.part.left(now)
    words += [] if left is None else [f"{text.duration(left)} left"]
    words.append(text.metrics({k: row.numbers[k] for k in WATCHED if k in row.numbers}))
    rates = {what: row.numbers.get(f"{what}_tokens_per_second".lstrip("_")) for what in ("", "rollout", "update")}
    words += [f"{what} {text.short(rate)} tok/s".strip() for what, rate in rates.items() if rate and not row.doing]
    return list(filter(None, words)) or ["starting"]


def outcome(row: Row) -> str:
    """How a stage ended, on one line; what its check found while it waits."""
    first = row.detail.strip().splitlines()[0] if row.detail.strip() else ""
    match row.state:
        case "cached":
            return "  ".join(filter(None, ("cached", text.metrics(row.numbers))))
        case "done":
            return "  ".join(filter(None, (text.duration(row.seconds), text.metrics(row.numbers))))
        case "failed":
            return f"failed after {text.duration(row.seconds)}: {first}"
        case "skipped":
            return f"skipped: {first}"
        case "waiting":
            return text.metrics(row.numbers)
        case "interrupted":
            return f"interrupted at step {row.steps}" if row.steps.total else "interrupted"
    return ""


def note_line(stage: str, level: str, what: str) -> str:
    """A note as one line, with where it comes from and whether it is a warning."""
    return f"{stage + ': ' if stage else ''}{'warning: ' if level == 'warning' else ''}{what}"
