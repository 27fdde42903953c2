"""Records for people: a conversation turn by turn, and how a reply came about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.text import Text

from align.cli import text
from align.data.convert import prompt_of, replies
from align.records import Preference, Record, Sample


def shown(record: Record) -> Iterator[Text]:
    """A record, with the transcript of its critiques and revisions or the votes of its judge where it has them."""
    extra: dict[str, Any] = getattr(record, "extra", {})
    principle = f"  principle {extra['principle']}" if "principle" in extra else ""
    yield Text(f"\n{getattr(record, 'id', '')}{principle}", style="bold")
    for turn in prompt_of(record) or ():
        yield _said(turn.role, turn.content)
    if "revisions" in extra:
        yield from _transcript(extra)
    elif isinstance(record, Preference):
        yield from _pair(record)
    else:
        scores = _scores(record.scores) if isinstance(record, Sample) else ""
        yield from (_said(f"reply{scores}", said) for said in replies(record))


def _transcript(extra: dict[str, Any]) -> Iterator[Text]:
    yield _written("first reply", extra["initial"])
    for turn in extra["revisions"]:
        yield _said(f"critique by {turn['principle']}", turn["critique"], "yellow", turn["critique_finish"])
        yield _written("revision", turn, "green")


def _written(what: str, of: dict[str, Any], style: str = "") -> Text:
    return _said(f"{what}{_scores(of.get('scores', {}))}", of["reply"], style, of["finish"])


def _pair(record: Preference) -> Iterator[Text]:
    better, worse = replies(record)
    yield _said(f"chosen ({record.label:.2f})", better, "green")
    yield _said(f"rejected ({1 - record.label:.2f})", worse, "red")
    votes = record.extra.get("feedback", {})
    for name, both in votes.items():
        told = " and ".join("unreadable" if p is None else f"{p:.2f}" for p in both)
        yield _said(f"by {name}", f"chosen with {told} in the two orders", "dim")


def _scores(scores: dict[str, float]) -> str:
    return f" ({text.metrics(scores)})" if scores else ""


def _said(who: str, what: str, style: str = "", finish: str = "stop") -> Text:
    cut = "" if finish == "stop" else f" [{finish}]"
    return Text.assemble((f"  {who}{cut}  ", "cyan"), (text.indented(what), style))


def first(records: Iterable[Record], rows: int) -> Iterator[Text]:
    """The first so many records."""
    for record, _ in zip(records, range(rows), strict=False):
        yield from shown(record)
