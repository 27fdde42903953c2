"""The built-in rules: rewards that need no model, each a few lines, each with its weakness in its card."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from align.errors import DataError
from align.records import Prompt
from align.rewards.base import reward

_WORD = re.compile(r"\w+(?:'\w+)*")
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+")


def words(text: str) -> list[str]:
    """Lower-case words; an apostrophe inside a word is part of it."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


@reward("length", better=None)
def length(prompt: Prompt, reply: str, unit: Literal["words", "characters"] = "words") -> float:
    """Words (split at blanks) or characters of the reply."""
    return len(reply.split() if unit == "words" else reply)


@reward("length_window")
def length_window(prompt: Prompt, reply: str, low: PositiveInt = 20, high: PositiveInt = 200) -> float:
    """1 for `low` to `high` words (split at blanks), else how many times too short or too long, upside down."""
    count = len(reply.split())
    return min(1.0, count / low, high / max(count, 1))


@reward("repetition", better="lower")
def repetition(prompt: Prompt, reply: str, n: int = 3) -> float:
    """The share of the reply's word n-grams that occurred in it before; 0 for fewer than n words."""
    said = words(reply)
    grams = list(zip(*(said[i:] for i in range(n)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@reward("lexicon")
def lexicon(prompt: Prompt, reply: str, file: Path) -> float:
    """Mean valence per word; words that the lexicon does not list count 0.

    file: lines of word, tab, valence, and perhaps more columns, as VADER's lexicon has them.
    """
    said = words(reply)
    valences = _valences(file)
    return sum(valences.get(word, 0.0) for word in said) / len(said) if said else 0.0


@lru_cache(maxsize=4)
def _valences(file: Path) -> dict[str, float]:
    found = {}
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        if line.strip():
            word, _, rest = line.partition("\t")
            try:
                found[word.lower()] = float(rest.split("\t")[0])
            except ValueError:
                raise DataError(f"{file}:{number}: not a lexicon line (word, tab, number): {line[:60]!r}") from None
    return found


@reward("numeric_answer")
def numeric_answer(prompt: Prompt, reply: str, column: str = "answer") -> float:
    """1 if the reply's final number equals that of the prompt's column, else 0.

    The final number is the one after the last `####` (GSM8K's mark), else the last one.
    """
    if column not in prompt.extra:
        raise DataError(f"prompt {prompt.id} has no column {column!r}; it has {', '.join(prompt.extra) or 'none'}")
    wanted = _final_number(str(prompt.extra[column]))
    if wanted is None:
        raise DataError(f"prompt {prompt.id}: no number in its column {column!r}: {prompt.extra[column]!r:.60}")
    return float(_final_number(reply) == wanted)


def _final_number(text: str) -> Decimal | None:
    after = text.rpartition("####")
    found = _NUMBER.findall(after[2])[:1] if after[1] else _NUMBER.findall(text)[-1:]
    try:
        return Decimal(found[0].replace(",", "")) if found else None
    except InvalidOperation:
        return None


@reward("pattern")
def pattern(prompt: Prompt, reply: str, regex: str) -> float:
    """1 if the regular expression matches the whole reply (blanks around it aside), else 0; `.` matches newlines."""
    return float(re.fullmatch(regex, reply.strip(), re.DOTALL) is not None)
