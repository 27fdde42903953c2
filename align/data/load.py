"""From an entry of `data:` to its records: rows are parsed, filtered, parted, de-duplicated, shuffled and cut.

The order is fixed: bad rows, `min_words` and `max_words`, `part`, `deduplicate`, `shuffle`, `skip`, `limit`. So two
entries that differ by `part`, or by `limit: n` against `skip: n`, never share a row.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from align.config import Data
from align.data import formats, sources
from align.data.convert import prompt_of, replies
from align.data.files import write_rows
from align.errors import DataError
from align.records import Record
from align.stage import seed_of


@dataclass
class Loaded:
    """The records of a dataset and what became of the rows that are not among them."""

    records: list[Record] = field(default_factory=list)
    format: str = ""
    """Name of the row format."""
    rows: int = 0
    """Rows read, bad ones included."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Why, and how many."""
    bad: list[dict[str, Any]] = field(default_factory=list)
    """Rows set aside: `where`, `error`, `columns`."""


def load(spec: Data, seed: int, base: Path, quarantine: Path | None = None) -> list[Record]:
    """The records of an entry of `data:`; see `loaded`."""
    return loaded(spec, seed, base, quarantine).records


def loaded(spec: Data, seed: int, base: Path, quarantine: Path | None = None) -> Loaded:
    """The records of an entry of `data:` with an account of the rows that were left out; none at all is an error.

    seed: the recipe's, so that every stage sees the same parts. base: the folder where relative paths start.
    quarantine: the file for bad rows under `on_bad_row: skip`.
    """
    made = sifted(spec, seed, base)
    if made.bad and quarantine is not None:
        write_rows(made.bad, quarantine)
    if not made.records:
        left_out = ", ".join(f"{count} {why}" for why, count in made.dropped.items())
        first = f"; the first bad row is {made.bad[0]['where']}: {made.bad[0]['error']}" if made.bad else ""
        why = left_out or "part, skip or limit"
        if not made.rows and spec.path != "toy":
            raise DataError(f"{spec.path}: there are no rows in it")
        raise DataError(f"{spec.path}: no record is left of {made.rows} rows ({why}){first}")
    return made


def sifted(spec: Data, seed: int, base: Path) -> Loaded:
    """Like `loaded`, but perhaps without a record."""
    made = Loaded()
    found = _generated(spec, seed) if spec.path == "toy" else _parsed(spec, base, made)
    found = _kept(_in_part(_long_enough(found, spec, made), spec, seed), spec, made)
    if spec.shuffle:
        shuffled = list(found)
        random.Random(seed_of(seed, "shuffle")).shuffle(shuffled)
        found = iter(shuffled)
    stop = None if spec.limit is None else spec.skip + spec.limit
    made.records = list(islice(found, spec.skip, stop))
    return made


def _generated(spec: Data, seed: int) -> Iterator[Record]:
    from align.data import toy

    try:
        yield from toy.generate(seed=seed, **spec.options)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"toy: options.{first['loc'][0]}: {first['msg']}") from None


def _parsed(spec: Data, base: Path, made: Loaded) -> Iterator[Record]:
    form = formats.named(spec.format) if spec.format else None
    options = spec.options if spec.prompt_words is None else {**spec.options, "prompt_words": spec.prompt_words}
    for row in sources.rows(spec, base):
        made.rows += 1
        try:
            if row.error is not None:
                raise DataError(row.error)
            form = form or _recognised(row, spec)
            made.format = form.name
            records = formats.read(row.columns, form, options)
        except DataError as error:
            if spec.on_bad_row == "error":
                hint = "" if form is None else " (on_bad_row: skip sets such rows aside)"
                raise DataError(f"{row.where}: {error}{hint}") from None
            made.dropped["bad rows"] += 1
            made.bad.append({"where": row.where, "error": str(error), "columns": row.columns})
            continue
        if not records:
            made.dropped["rows without a record"] += 1
        yield from records


def _recognised(row: sources.Row, spec: Data) -> formats.Format:
    form = formats.recognise(row.columns)
    if form is None:
        pairs = zip(("prompt", "completion"), row.columns, strict=False)
        mapped = ", ".join(f"{needed}: {found}" for needed, found in pairs)
        raise DataError(
            f"no row format fits the columns {', '.join(row.columns)}. Say what they are, such as "
            f"columns: {{{mapped}}}; `align stages formats` lists what is known"
        )
    if spec.prompt_words is not None and form.name != "text":
        raise DataError(f"prompt_words is for plain text; these rows are of format {form.name!r}")
    return form


def _long_enough(records: Iterable[Record], spec: Data, made: Loaded) -> Iterator[Record]:
    for record in records:
        words = [len(reply.split()) for reply in replies(record)] or [_words_of_prompt(record)]
        if min(words) < spec.min_words:
            made.dropped[f"shorter than {spec.min_words} words"] += 1
        elif spec.max_words is not None and max(words) > spec.max_words:
            made.dropped[f"longer than {spec.max_words} words"] += 1
        else:
            yield record


def _words_of_prompt(record: Record) -> int:
    return sum(len(m.content.split()) for m in prompt_of(record) or ())


def _in_part(records: Iterable[Record], spec: Data, seed: int) -> Iterator[Record]:
    low, high = spec.part
    for record in records:
        if (low, high) == (0.0, 1.0) or low <= share_of(record, seed) < high:
            yield record


def share_of(record: Record, seed: int) -> float:
    """A number in [0, 1) by a seeded hash of what is asked, so that all replies to a prompt fall into the same part.

    Records without a prompt go by their whole content.
    """
    prompt = prompt_of(record)
    asked = [m.row() for m in prompt] if prompt else record.row()
    text = json.dumps([seed, asked], ensure_ascii=False, sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def content_of(record: Record) -> str:
    """What must be equal for two records to be duplicates: everything but `id` and `extra`."""
    row = {k: v for k, v in record.row().items() if k not in ("id", "extra")}
    return hashlib.sha256(json.dumps(row, ensure_ascii=False, sort_keys=True, default=str).encode()).hexdigest()


def _kept(records: Iterable[Record], spec: Data, made: Loaded) -> Iterator[Record]:
    seen: set[str] = set()
    for record in records:
        if spec.deduplicate:
            content = content_of(record)
            if content in seen:
                made.dropped["duplicates"] += 1
                continue
            seen.add(content)
        yield record
