"""What a stage reads: the records behind its data field, of the kind it needs, mixed as the recipe says."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from align.config import Data, Endpoint, Model
from align.data.convert import convert
from align.data.fields import Part
from align.data.files import read_file
from align.data.load import loaded
from align.errors import DataError
from align.records import Record
from align.stage import Context, RecordsRef

R = TypeVar("R", bound=Record)


def read(ctx: Context, field: RecordsRef | Sequence[RecordsRef | Part], as_: type[R]) -> list[R]:
    """The records that a data field names, converted to one kind and mixed. Says in notes what was left out."""
    parts = [field] if isinstance(field, RecordsRef) else list(field)
    parts = [part if isinstance(part, Part) else Part.model_validate({"from": part}) for part in parts]
    sources = [_records(ctx, part.source, as_) for part in parts]
    if len(parts) == 1 and parts[0].count is None:
        return sources[0]
    return mixture(sources, parts, ctx.seed_of("mix"))


def mixture(sources: Sequence[list[R]], parts: Sequence[Part], seed: int) -> list[R]:
    """Records of several sources in one shuffled list; how many of each, the parts say.

    >>> parts = [Part.model_validate({"from": f"${name}", "weight": weight}) for name, weight in (("a", 2), ("b", 1))]
    >>> sorted(mixture([["a"] * 6, ["b"] * 9], parts, seed=0))
    ['a', 'a', 'a', 'a', 'a', 'a', 'b', 'b', 'b']
    """
    chance = random.Random(seed)
    counts = zip(sources, _counts(sources, parts), strict=True)
    mixed = [row for rows, count in counts for row in _drawn(rows, count, chance)]
    chance.shuffle(mixed)
    return mixed


def _counts(sources: Sequence[list[R]], parts: Sequence[Part]) -> list[int]:
    """Rows to take of each source. By weights: the largest mixture in which no row is repeated."""
    if parts[0].weight is None:
        return [len(rows) if part.count is None else part.count for rows, part in zip(sources, parts, strict=True)]
    weights = [part.weight or 0.0 for part in parts]
    unit = min(len(rows) / weight for rows, weight in zip(sources, weights, strict=True))
    return [round(unit * weight) for weight in weights]


def _drawn(rows: list[R], count: int, chance: random.Random) -> list[R]:
    """Whole passes first, then a draw without repeats: no row is taken twice as often as another plus one."""
    passes, left = divmod(count, len(rows))
    return rows * passes + chance.sample(rows, left)


def _records(ctx: Context, reference: RecordsRef, as_: type[R]) -> list[R]:
    source = ctx[reference]
    if isinstance(source, (Model, Endpoint)):
        raise DataError(f"stages.{ctx.stage}: {reference} is a model, not a dataset")
    if isinstance(source, Data):
        quarantine = Path("quarantine", f"{reference.name}.jsonl")
        runs = ctx.out.is_dir()  # else it is a check, which leaves nothing
        made = loaded(source, ctx.seed, ctx.base, ctx.out / quarantine if runs else None)
        found: Iterable[Record] = made.records
        _tell(ctx, reference, made.dropped, f"; the artifact has them in {quarantine}" if runs and made.bad else "")
    else:
        found = read_file(source.path / "records.jsonl")
    try:
        return convert(found, as_)
    except DataError as error:
        raise DataError(f"stages.{ctx.stage}: {reference}: {error}") from None


def _tell(ctx: Context, reference: RecordsRef, dropped: Counter[str], more: str) -> None:
    if dropped:
        ctx.note(f"{reference}: left out " + ", ".join(f"{count} {why}" for why, count in dropped.items()) + more)
