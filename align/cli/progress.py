"""The events of a run, added up into one row a stage. Pure bookkeeping: nothing is printed here."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["waiting", "cached", "running", "done", "failed", "skipped", "interrupted"]

WINDOW = 20
"""The pace is that of so many of the latest steps."""

SAID = 70
"""Characters of a prompt's end and of a reply's beginning that stand on one line."""

NO_METRICS = frozenset({"event", "stage", "time", "step", "steps"})


@dataclass
class Count:
    """How far something is, and how fast it goes."""

    done: int = 0
    total: int = 0
    _marks: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def mark(self, now: float, done: int, total: int) -> None:
        """Note that `done` of `total` are complete."""
        if done < self.done or total != self.total:
            self._marks.clear()
        self.done, self.total = done, total
        self._marks.append((now, done))

    def left(self, now: float) -> float | None:
        """Seconds until the last one, at the pace of the latest; None before there are two, and after the last."""
        if len(self._marks) < 2 or self.done in (self._marks[0][1], self.total):
            return None
        (first, start), (last, done) = self._marks[0], self._marks[-1]
        pace = (last - first) / (done - start)
        return max(0.0, (self.total - done) * pace - (now - last))

    def __str__(self) -> str:
        return f"{self.done}/{self.total}"


@dataclass
class Row:
    """One stage as a display shows it."""

    name: str
    kind: str = ""
    """What the recipe wrote after `stage:`."""
    state: State = "waiting"
    steps: Count = field(default_factory=Count)
    """Of training."""
    doing: str = ""
    """What the running stage is doing before, between or after those, such as `sampling`."""
    part: Count = field(default_factory=Count)
    """Of what it is doing."""
    numbers: dict[str, float] = field(default_factory=dict)
    """What its check found, then the latest step's metrics, then the stage's own."""
    detail: str = ""
    """Why it failed or was skipped."""
    log: str = ""
    started: float = 0.0
    seconds: float = 0.0


@dataclass
class Progress:
    """All rows of a run, in the recipe's order, and what was said on the way."""

    recipe: str = ""
    rows: dict[str, Row] = field(default_factory=dict)
    notes: list[tuple[str, str, str]] = field(default_factory=list)
    """(stage, level, text)"""
    started: float = 0.0

    def add(self, event: Mapping[str, Any], now: float) -> Row | None:
        """Take in one event. Returns the row it changed."""
        name = event["event"]
        if name == "run_started":
            self._begin(event, now)
            return None
        if name == "note":
            self.notes.append((event.get("stage", ""), event.get("level", "info"), event["text"]))
            return None
        if name == "sample":
            self.notes.append((event.get("stage", ""), "info", _said(event)))
            return None
        if name == "loop_decided":
            self.notes.append(("", "warning" if event["stopped"] else "info", event["text"]))
            return None
        if "stage" not in event:
            return None
        row = self.rows.setdefault(event["stage"], Row(event["stage"]))
        _CHANGES.get(name, _ignore)(row, event, now)
        return row

    def count(self, *states: State) -> int:
        """How many stages are in one of these states."""
        return sum(row.state in states for row in self.rows.values())

    def _begin(self, event: Mapping[str, Any], now: float) -> None:
        self.recipe, self.started = event["recipe"], now
        self.rows = {name: Row(name, kind) for name, kind in event["stages"].items()}


def _said(event: Mapping[str, Any]) -> str:
    """What a policy says while it learns, on one line."""
    prompt, reply = (" ".join(event[name].split()) for name in ("prompt", "reply"))
    prompt = prompt if len(prompt) <= SAID else f"…{prompt[-SAID:].lstrip()}"
    reply = reply if len(reply) <= SAID else f"{reply[:SAID].rstrip()}…"
    return f"step {event['step']}, reward {event['reward']:.3g}: {prompt} → {reply}"


def _ignore(row: Row, event: Mapping[str, Any], now: float) -> None:
    pass


def _cached(row: Row, event: Mapping[str, Any], now: float) -> None:
    row.state, row.numbers = "cached", dict(event.get("metrics", {}))


def _checked(row: Row, event: Mapping[str, Any], now: float) -> None:
    row.numbers = {k: v for k, v in event["figures"].items() if isinstance(v, (int, float))}


def _started(row: Row, event: Mapping[str, Any], now: float) -> None:
    row.state, row.started, row.numbers = "running", now, {}


def _step(row: Row, event: Mapping[str, Any], now: float) -> None:
    row.doing = ""
    row.steps.mark(now, event["step"], event["steps"])
    row.numbers = {k: v for k, v in event.items() if k not in NO_METRICS and isinstance(v, (int, float))}


def _progress(row: Row, event: Mapping[str, Any], now: float) -> None:
    if row.doing != event["what"]:
        row.doing, row.part = event["what"], Count()
    row.part.mark(now, event["done"], event["total"])


def _finished(row: Row, event: Mapping[str, Any], now: float) -> None:
    row.state, row.seconds, row.numbers = "done", event["seconds"], dict(event["metrics"])


def _failed(row: Row, event: Mapping[str, Any], now: float) -> None:
    row.state, row.detail, row.log = "failed", event["error"], str(event.get("log") or "")
    row.seconds = now - row.started if row.started else 0.0


def _skipped(row: Row, event: Mapping[str, Any], now: float) -> None:
    row.state, row.detail = "skipped", event["because"]


def _interrupted(row: Row, event: Mapping[str, Any], now: float) -> None:
    row.state = "interrupted"


_CHANGES = {
    "stage_cached": _cached,
    "stage_checked": _checked,
    "stage_started": _started,
    "step": _step,
    "progress": _progress,
    "stage_finished": _finished,
    "stage_failed": _failed,
    "stage_skipped": _skipped,
    "interrupted": _interrupted,
}
