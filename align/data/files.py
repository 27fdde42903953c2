"""Records on disk: JSON lines, one record a line, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from align.errors import DataError
from align.records import Record, from_row


def write(records: Iterable[Record], path: Path) -> int:
    """Writes records to a JSON lines file, which appears only when complete. Returns how many there were."""
    return write_rows((record.row() for record in records), path)


def write_rows(rows: Iterable[dict[str, Any]], path: Path) -> int:
    """Like `write`, for plain rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for row in rows:
                # Columns that JSON does not know, dates of a parquet file say, travel in `extra` as text.
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def read_rows(path: Path) -> list[Any]:
    """The rows of a JSON lines file. `splitlines` would part them at marks that a text may hold, such as U+2028."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_file(path: Path) -> Iterator[Record]:
    """The records of a JSON lines file that `write` wrote, one at a time."""
    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    with file:
        for number, line in enumerate(file, 1):
            try:
                yield from_row(json.loads(line))
            except (ValueError, AttributeError, TypeError) as error:
                raise DataError(f"{path}:{number}: not a record: {error}") from None
            except DataError as error:
                raise DataError(f"{path}:{number}: {error}") from None
