"""Kinds of records turn into one another where there is one natural way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar, cast

from align.errors import DataError
from align.records import Demonstration, Message, Messages, Preference, Prompt, Rated, Record, Sample, Text

R = TypeVar("R", bound=Record)


def prompt_of(record: Record) -> Messages | None:
    """What is answered: of a Demonstration, the messages before the last supervised one. None for raw text."""
    if isinstance(record, Demonstration):
        return record.messages[: supervised(record)[-1]]
    return None if isinstance(record, Text) else cast(Messages, record.prompt)  # type: ignore[attr-defined]


def supervised(record: Demonstration) -> tuple[int, ...]:
    """The indices of the messages that carry loss."""
    if record.supervised is not None:
        return record.supervised
    return tuple(i for i, m in enumerate(record.messages) if m.role == "assistant")


def replies(record: Record) -> list[str]:
    """The texts that a record judges or imitates; the text of raw text; nothing for a Prompt."""
    match record:
        case Text():
            return [record.text]
        case Demonstration():
            return [record.messages[i].content for i in supervised(record)]
        case Preference():
            return ["\n".join(m.content for m in reply) for reply in (record.chosen, record.rejected)]
        case Rated():
            return ["\n".join(m.content for m in record.reply)]
        case Sample():
            return [record.reply]
    return []


def _preference_to_demonstration(record: Preference) -> list[Record]:
    if "chosen" in record.unfinished:
        raise DataError("its chosen reply was cut at a token limit, so there is nothing whole to imitate")
    turns = record.prompt + record.chosen
    marked = tuple(i for i in range(len(record.prompt), len(turns)) if turns[i].role == "assistant")
    return [Demonstration(record.id, turns, marked, record.extra)]


def _preference_to_rated(record: Preference) -> list[Record]:
    return [Rated(record.id, record.prompt, reply, score, record.extra)
            for reply, score in ((record.chosen, 1.0), (record.rejected, 0.0))]  # fmt: skip


def _revision_to_preference(record: Demonstration) -> list[Record]:
    """A revised reply over the one it was made from, as `critique_revise` keeps both."""
    if "initial" not in record.extra:
        raise DataError(f"needs Preference records, found a Demonstration. {MAKERS[Preference]}.")
    initial = record.extra["initial"]
    prompt, cut = prompt_of(record), ("rejected",) if initial["finish"] == "length" else ()
    assert prompt is not None
    turns = record.messages[len(prompt) :], (Message("assistant", initial["reply"]),)
    return [Preference(record.id, prompt, *turns, unfinished=cut, extra=record.extra)]


def _sample_to_rated(record: Sample) -> list[Record]:
    if len(record.scores) != 1:
        raise DataError(f"a Sample becomes a Rated when it has exactly one score; this one has {len(record.scores)}")
    (score,) = record.scores.values()
    return [Rated(record.id, record.prompt, (Message("assistant", record.reply),), score, record.extra)]


def _demonstration_to_sample(record: Demonstration) -> list[Record]:
    *_, last = supervised(record)
    return [Sample(record.id, record.messages[:last], record.messages[last].content, "", extra=record.extra)]


WAYS: dict[tuple[type[Record], type[Record]], Callable[..., list[Record]]] = {
    (Preference, Demonstration): _preference_to_demonstration,
    (Preference, Rated): _preference_to_rated,
    (Demonstration, Preference): _revision_to_preference,
    (Sample, Rated): _sample_to_rated,
    (Demonstration, Sample): _demonstration_to_sample,
    (Sample, Text): lambda record: [Text(record.id, record.reply, record.extra)],
}

MAKERS = {
    Demonstration: "A Preference becomes one by its chosen reply; stage `prefer` makes Preferences of Samples",
    Preference: (
        "Stage `sample` writes several replies to each prompt and stage `prefer` makes Preferences of them; "
        "Demonstrations of `critique_revise` become some, and `ai_feedback` makes them"
    ),
    Rated: "A Preference becomes two, a Sample with one score becomes one",
    Sample: "Stage `sample` makes them; a Demonstration becomes one by its last supervised reply",
    Text: "Give a dataset with a `text` column, or of plain text without `prompt_words`",
    Prompt: "Raw text becomes prompts by `prompt_words`",
}


def convert(records: Iterable[Record], as_: type[R]) -> list[R]:
    """Records as another kind. Raises DataError where there is no natural way, and says what makes that kind.

    Everything but raw text becomes a Prompt; each prompt is then kept once, however many replies it had.
    """
    made: list[Record] = []
    asked: set[Messages] = set()
    for record in records:
        way = WAYS.get((type(record), as_))
        if isinstance(record, as_):
            made.append(record)
        elif as_ is Prompt and (prompt := prompt_of(record)):
            if prompt not in asked:
                made.append(Prompt(record.id, prompt, record.extra))  # type: ignore[attr-defined]
                asked.add(prompt)
        elif way is not None:
            made.extend(way(record))
        else:
            unused = [name for name in getattr(record, "extra", ()) if as_ is not Text]
            said = f" Not used of its columns: {', '.join(unused)}; `columns:` says what they are." if unused else ""
            raise DataError(f"needs {as_.__name__} records, found a {type(record).__name__}.{said} {MAKERS[as_]}.")
    return cast(list[R], made)
