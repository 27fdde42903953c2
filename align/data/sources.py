"""The door to files, folders and the hub: a `Data` entry becomes rows, each with the place it came from.

A row is a dict of columns, without the columns that are null. Plain text and JSON strings become the column `text`.
Places are `file:line` for text formats and `file:row` for the others. `datasets` is imported for the hub and for
folders it saved, `pyarrow` for parquet; neither is needed otherwise.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from align.config import Data
from align.errors import DataError, DependencyError, suggestion


@dataclass(frozen=True, slots=True)
class Row:
    """Columns of one row and where it stands, or why it could not be read."""

    where: str
    columns: dict[str, Any]
    error: str | None = None


def rows(spec: Data, base: Path) -> Iterator[Row]:
    """The rows that an entry of `data:` names, in file order, with `columns:` applied. Relative paths start at base."""
    found = _hub(spec) if is_hub_name(spec.path, base) else _local(spec, base)
    for number, row in enumerate(found):
        if number == 0:
            _check_columns(spec.columns, row)
        taken = {to: row.columns[name] for to, name in spec.columns.items() if name in row.columns}
        columns = {k: v for k, v in row.columns.items() if k not in spec.columns.values()} | taken
        yield Row(row.where, {k: v for k, v in columns.items() if v is not None}, row.error)


def is_hub_name(path: str, base: Path) -> bool:
    """Whether a path names a dataset of the hub: nothing local has that name and it looks like `owner/name`."""
    if (base / Path(path).expanduser()).exists() or _suffix(Path(path)) in READERS:
        return False
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", path) is not None


def parts(spec: Data, base: Path) -> list[str]:
    """The paths that can be read by themselves: each data file of a folder, each split that `datasets` saved, else the
    entry's own."""
    if is_hub_name(spec.path, base) or "rejected" in spec.options:
        return [spec.path]
    found, path = files(spec, base), base / Path(spec.path).expanduser()
    if path.is_dir() and _saved_by_datasets(path):
        splits = path / "dataset_dict.json"
        found = [path / split for split in json.loads(splits.read_text())["splits"]] if splits.exists() else []
        found = [] if spec.split else found
    return list(map(str, found)) if len(found) > 1 else [spec.path]


def files(spec: Data, base: Path) -> list[Path]:
    """The local files that a dataset is made of; their content is its identity."""
    path = base / Path(spec.path).expanduser()
    if not path.exists():
        near = suggestion(path.name, [p.name for p in path.parent.glob("*")]) if path.parent.is_dir() else ""
        raise DataError(f"{path}: no such file or folder.{near}")
    made = _files_of_folder(path, spec.split) if path.is_dir() else [path]
    return [*made, _beside(path, spec)] if _beside(path, spec) is not None else made  # type: ignore[list-item]


def _beside(path: Path, spec: Data) -> Path | None:
    """The file of `options: {rejected: ...}`, unless it is a member of the same zip."""
    other = spec.options.get("rejected")
    return None if other is None or path.suffix == ".zip" else path.parent / str(other)


def _check_columns(names: dict[str, str], first: Row) -> None:
    """A mapped column that the first row lacks is a misspelling; later rows may leave optional columns out."""
    for name in names.values():
        if first.error is None and name not in first.columns:
            raise DataError(f"{first.where}: columns: there is no column {name!r}.{suggestion(name, first.columns)}")


def _local(spec: Data, base: Path) -> Iterator[Row]:
    path, found = base / Path(spec.path).expanduser(), files(spec, base)
    if path.is_dir() and _saved_by_datasets(path):
        yield from _table(_datasets().load_from_disk(str(path)), spec)
    elif "rejected" in spec.options:
        yield from _pairs(spec, path)
    else:
        for file in found:
            yield from _file(file, spec, spec.member)


def _file(path: Path, spec: Data, member: str | None) -> Iterator[Row]:
    name = Path(member) if member else path
    suffix = _suffix(name)
    # A file inside a zip is named by the reader, so an unknown suffix (`rt-polarity.pos`) can only mean plain text.
    reader = READERS.get(suffix) or (_text if member else None)
    if reader is None and suffix != ".zip":
        raise DataError(f"{path}: unknown type of file {suffix!r}; known are {', '.join(READERS)}, each also .gz; .zip")
    where = f"{path}!{member}" if member else str(path)
    try:
        with _opened(path, member) as stream:
            assert reader is not None  # _opened refuses a zip without a member
            for number, value in reader(stream, spec):
                yield _row(f"{where}:{number}", value)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not {spec.encoding}: {error.reason} at byte {error.start}. Set encoding: latin-1, "
                        "or what it is") from None  # fmt: skip
    except json.JSONDecodeError as error:
        raise DataError(f"{where}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from None
    except (csv.Error, OSError, EOFError) as error:
        raise DataError(f"{where}: {error}") from None


def _row(where: str, value: Any) -> Row:
    if isinstance(value, str):
        return Row(where, {"text": value})
    if isinstance(value, dict):
        return Row(where, {str(k): v for k, v in value.items()})
    if isinstance(value, _Unreadable):
        return Row(where, {}, value.why)
    return Row(where, {}, f"a row is a mapping of columns or a text, found {type(value).__name__}")


@contextmanager
def _opened(path: Path, member: str | None) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(path.open("rb"))
        name = member or path.name
        if path.suffix == ".zip":
            stream = stack.enter_context(_member(path, stream, member))
        elif member:
            raise DataError(f"{path}: member: is for .zip files only")
        yield stack.enter_context(gzip.open(stream)) if name.endswith(".gz") else stream  # type: ignore[misc]


def _member(path: Path, stream: IO[bytes], member: str | None) -> IO[bytes]:
    archive = zipfile.ZipFile(stream)
    names = [n for n in archive.namelist() if not n.endswith("/")]
    if member is None:
        raise DataError(f"{path}: say which file of the zip with member: {', '.join(names[:10])}")
    if member not in names:
        raise DataError(f"{path}: the zip has no member {member!r}.{suggestion(member, names)}")
    return archive.open(member)


def _suffix(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes if s.lower() != ".gz"]
    return suffixes[-1] if suffixes else ""


# Readers: (bytes, spec) -> (line or row number, value). One a file type.


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Stands for a row that is broken while its neighbours may not be."""

    why: str


def _lines(stream: IO[bytes], spec: Data) -> io.TextIOWrapper:
    # Spreadsheets write a byte order mark, which plain utf-8 would glue to the first column's name.
    encoding = "utf-8-sig" if spec.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else spec.encoding
    return io.TextIOWrapper(stream, encoding=encoding, newline="")


def _text(stream: IO[bytes], spec: Data) -> Iterator[tuple[int, str]]:
    """Rows between separators (`options: {separator: ...}`, a line break by default).

    Blank ones are no rows, unless rows of two files are paired by their place.
    """
    separator, paired = spec.options.get("separator"), "rejected" in spec.options
    if separator is None:
        for number, line in enumerate(_lines(stream, spec), 1):
            if paired or line.strip():
                yield number, line.rstrip("\r\n")
        return
    line = 1
    for piece in _lines(stream, spec).read().split(str(separator)):
        if paired or piece.strip():
            yield line + piece[: len(piece) - len(piece.lstrip())].count("\n"), piece.strip()
        line += piece.count("\n") + str(separator).count("\n")


def _jsonl(stream: IO[bytes], spec: Data) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(stream, spec), 1):
        if line.strip():
            try:
                yield number, _spelled(json.loads(line.rstrip()), line)
            except json.JSONDecodeError as error:
                yield number, _Unreadable(f"not JSON: {error.msg} at column {error.colno}")


def _spelled(value: Any, source: str) -> Any:
    """The value, unless a text in it holds half a character, which JSON can escape (\\ud83d) and no file can hold."""
    if "\\ud" not in source.lower():
        return value
    text = json.dumps(value, ensure_ascii=False)
    half = re.search("[\ud800-\udfff]", text)
    if half is None:
        return value
    before = text[max(0, half.start() - 20) : half.start()]
    return _Unreadable(f"half a character (\\u{ord(half[0]):04x}) after {before!r}: the text was cut inside of it")


def _json(stream: IO[bytes], spec: Data) -> Iterator[tuple[int, Any]]:
    """Elements of one top-level list, each with the line it begins on."""
    text = _lines(stream, spec).read()
    decoder, blank = json.JSONDecoder(), re.compile(r"\s*")
    at = blank.match(text).end()  # type: ignore[union-attr]
    if text[at : at + 1] != "[":
        raise json.JSONDecodeError("expected a list of rows (one object a line is .jsonl)", text, at)
    line, counted, closed = 1, 0, False
    at = blank.match(text, at + 1).end()  # type: ignore[union-attr]
    closed = text[at : at + 1] == "]"
    while not closed:
        line, counted = line + text.count("\n", counted, at), at
        value, at = decoder.raw_decode(text, at)
        yield line, _spelled(value, text[counted:at])
        at = blank.match(text, at).end()  # type: ignore[union-attr]
        closed = text[at : at + 1] == "]"
        if not closed and text[at : at + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
        at = blank.match(text, at + 1).end()  # type: ignore[union-attr]


def _separated(delimiter: str) -> Callable[[IO[bytes], Data], Iterator[tuple[int, Any]]]:
    def read(stream: IO[bytes], spec: Data) -> Iterator[tuple[int, Any]]:
        limit = csv.field_size_limit(2**31 - 1)  # replies are longer than the 128 KiB that csv allows a cell
        try:
            reader = csv.DictReader(_lines(stream, spec), delimiter=delimiter, strict=True)
            line = 2 if reader.fieldnames else 1
            for row in reader:
                ragged = None in row or None in row.values()
                yield line, _Unreadable("the row has not as many cells as the header") if ragged else row
                line = reader.line_num + 1
        finally:
            csv.field_size_limit(limit)

    return read


def _parquet(stream: IO[bytes], spec: Data) -> Iterator[tuple[int, Any]]:
    from pyarrow import parquet

    number = 0
    for batch in parquet.ParquetFile(io.BytesIO(stream.read()) if not stream.seekable() else stream).iter_batches(1024):
        for row in batch.to_pylist():
            number += 1
            yield number, row


READERS: dict[str, Callable[[IO[bytes], Data], Iterable[tuple[int, Any]]]] = {
    ".json": _json, ".jsonl": _jsonl, ".csv": _separated(","), ".tsv": _separated("\t"), ".parquet": _parquet,
    ".txt": _text,
}  # fmt: skip


def _pairs(spec: Data, path: Path) -> Iterator[Row]:
    """Row i of the file as `chosen` and row i of the file in `options: {rejected: ...}` as `rejected`."""
    other = str(spec.options["rejected"])
    zipped = path.suffix == ".zip"
    better = _file(path, spec, spec.member)
    worse = _file(path, spec, other) if zipped else _file(path.parent / other, spec, None)
    for a, b in zip_longest(better, worse):
        texts = ["" if row is None else row.columns.get("text") for row in (a, b)]
        if not any(text is None or text.strip() for text in texts):
            continue  # blank in both files, or after the end of one
        if a is None or b is None:
            raise DataError(f"{path}: {spec.member or path.name} and {other} have different numbers of rows")
        yield Row(a.where, dict(zip(("chosen", "rejected"), texts, strict=True)))


def _files_of_folder(folder: Path, split: str | None) -> list[Path]:
    if _saved_by_datasets(folder):
        return sorted(p for p in folder.rglob("*") if p.is_file())
    found = sorted(p for p in folder.rglob("*") if p.is_file() and _suffix(p) in READERS and p.name[0] != ".")
    if split is not None:
        found = [p for p in found if re.match(rf"{re.escape(split)}(\W|$)", str(p.relative_to(folder)))]
    if not found:
        what = f"of split {split!r} " if split else ""
        raise DataError(f"{folder}: no data file {what}in this folder; known are {', '.join(READERS)}, each also .gz")
    return found


def _saved_by_datasets(folder: Path) -> bool:
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def _hub(spec: Data) -> Iterator[Row]:
    datasets = _datasets()
    where = {"data_dir": spec.data_dir, "revision": spec.revision}
    try:
        split = spec.split or _only_split(datasets.get_dataset_split_names(spec.path, spec.config, **where), spec)
        table = datasets.load_dataset(spec.path, spec.config, split=split, **where)
    except (OSError, ValueError) as error:
        raise DataError(f"{spec.path}: not a local path, and the hub gives no such dataset: {error}") from None
    yield from _table(table, spec)


def _only_split(splits: Sequence[str], spec: Data) -> str:
    if len(splits) != 1:
        raise DataError(f"{spec.path}: say which split: {', '.join(splits)}")
    return splits[0]


def _table(table: Any, spec: Data) -> Iterator[Row]:
    if hasattr(table, "keys"):  # a DatasetDict
        split = spec.split or _only_split(list(table), spec)
        if split not in table:
            raise DataError(f"{spec.path}: there is no split {split!r}.{suggestion(split, table)}")
        table = table[split]
    for number, row in enumerate(table, 1):
        yield _row(f"{spec.path}:{number}", row)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DependencyError(f"reading from the hub needs the package 'datasets': {error}") from None
    return datasets
