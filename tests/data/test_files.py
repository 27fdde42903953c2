import datetime

import pytest

from align.data.files import read_file, read_rows, write, write_rows
from align.errors import DataError
from align.records import Demonstration, Message, Preference, Prompt, Rated, Sample, Text

ASK, YES, NO = (Message("user", "é?"),), (Message("assistant", "yes"),), (Message("assistant", "no"),)
RECORDS = [
    Text("1", "a\u2028b"), Prompt("2", ASK), Demonstration("3", ASK + YES, (1,)),
    Preference("4", ASK, YES, NO, 0.5, 0.9, 2.0), Rated("5", ASK, YES, 0.0),
    Sample("6", ASK, "yes", "sft", 1, "length", 7, -3.5, {"length": 1.0}, {"source": "x"}),
]  # fmt: skip


def test_every_kind_of_record_comes_back_as_it_was(tmp_path):
    assert write(RECORDS, tmp_path / "deep" / "records.jsonl") == 6
    assert list(read_file(tmp_path / "deep" / "records.jsonl")) == RECORDS


def test_rows_with_any_mark_in_them_come_back_as_they_were(tmp_path):
    """Some marks part lines for Python, and not for JSON: NEL, and the separators of lines and paragraphs."""
    rows = [{"text": "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\r\nh\ri"}, {"text": "\u2028"}]
    write_rows(rows, tmp_path / "rows.jsonl")
    assert read_rows(tmp_path / "rows.jsonl") == rows


def test_what_json_does_not_know_travels_as_text(tmp_path):
    write([Text("1", "a", {"day": datetime.date(2024, 2, 1)})], tmp_path / "r.jsonl")
    assert next(read_file(tmp_path / "r.jsonl")).extra == {"day": "2024-02-01"}


def test_a_failure_while_writing_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "records.jsonl"
    write(RECORDS[:1], path)

    def failing():
        yield RECORDS[1]
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write(failing(), path)
    assert list(read_file(path)) == RECORDS[:1] and [p.name for p in tmp_path.iterdir()] == ["records.jsonl"]


@pytest.mark.parametrize(
    ("line", "why"), [("{", "not a record"), ("[]", "not a record"), ('{"kind": "x"}', "kind 'x'")]
)
def test_a_broken_line_is_named(tmp_path, line, why):
    path = tmp_path / "records.jsonl"
    write(RECORDS[:1], path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=rf"records\.jsonl:2: .*{why}"):
        list(read_file(path))
