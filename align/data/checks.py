"""What `align data check` says of a dataset: its format, bad rows, duplicates, length bias and overlaps."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from align.config import Data
from align.data import sources
from align.data.convert import prompt_of, replies
from align.data.load import Loaded, content_of, sifted
from align.records import Preference, Record


@dataclass(frozen=True)
class LengthBias:
    """How often the chosen reply is the longer one: a judge that only counts words would be right so often."""

    longer: float
    """Share of pairs whose chosen reply has more words; ties count half."""
    low: float
    high: float
    """The 95 % Wilson interval of `longer`. Without length bias it holds 0.5."""
    chosen_words: float
    rejected_words: float
    """Means."""


@dataclass(frozen=True)
class Check:
    """One file, or one split of the hub."""

    name: str
    format: str
    rows: int
    records: dict[str, int]
    """How many of each kind."""
    bad: int
    errors: dict[str, int]
    """Why rows are bad, and how many are so."""
    first_bad: str | None
    """Where the first bad row stands."""
    duplicates: int
    """Records whose content was there before."""
    prompts: int
    """Different prompts."""
    words: dict[str, float]
    """Of replies (or texts): `median`, `p95`, `max`."""
    length_bias: LengthBias | None


@dataclass(frozen=True)
class Overlap:
    """Prompts, or raw texts, that two files share."""

    first: str
    second: str
    shared: int
    share: float
    """Of the smaller file's."""


def check(spec: Data, base: Path) -> tuple[list[Check], list[Overlap]]:
    """Checks each file that an entry names by itself, and what the files share with one another."""
    names = sources.parts(spec, base)
    options = {"on_bad_row": "skip", "split": spec.split if names == [spec.path] else None}
    found = {name: sifted(spec.model_copy(update={"path": name, **options}), 0, base) for name in names}
    checks = [_check(name, made) for name, made in found.items()]
    return checks, _overlaps({name: _asked(made.records) for name, made in found.items()})


def _check(name: str, made: Loaded) -> Check:
    contents = Counter(map(content_of, made.records))
    words = sorted(len(reply.split()) for record in made.records for reply in replies(record))
    return Check(
        name=name, format=made.format, rows=made.rows,
        records=dict(Counter(type(record).__name__ for record in made.records)),
        bad=len(made.bad), errors=dict(Counter(str(row["error"]) for row in made.bad)),
        first_bad=made.bad[0]["where"] if made.bad else None,
        duplicates=sum(contents.values()) - len(contents), prompts=len(_asked(made.records)),
        words=_quantiles(words), length_bias=_length_bias([r for r in made.records if isinstance(r, Preference)]),
    )  # fmt: skip


def _quantiles(sizes: Sequence[int]) -> dict[str, float]:
    if not sizes:
        return {}
    return {"median": statistics.median(sizes), "p95": sizes[math.ceil(0.95 * len(sizes)) - 1], "max": sizes[-1]}


def _length_bias(pairs: Sequence[Preference]) -> LengthBias | None:
    if not pairs:
        return None
    sizes = [[len(reply.split()) for reply in replies(pair)] for pair in pairs]
    n, longer = len(sizes), sum((a > b) + (a == b) / 2 for a, b in sizes) / len(sizes)
    middle, z = longer, 1.96
    spread = z * math.sqrt(middle * (1 - middle) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    middle = (middle + z * z / (2 * n)) / (1 + z * z / n)
    means = [statistics.fmean(column) for column in zip(*sizes, strict=True)]
    return LengthBias(longer, middle - spread, middle + spread, *means)


def _asked(records: Sequence[Record]) -> set[Any]:
    """What makes rows of a training and a test file the same question: the prompt, or the text where there is none."""
    return {prompt_of(record) or content_of(record) for record in records}


def _overlaps(asked: dict[str, set[Any]]) -> list[Overlap]:
    pairs = ((a, b, len(asked[a] & asked[b])) for a, b in combinations(asked, 2))
    return [Overlap(a, b, n, n / min(len(asked[a]), len(asked[b]))) for a, b, n in pairs if n]
