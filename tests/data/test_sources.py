import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest

from align.config import Data
from align.data.sources import Row, files, is_hub_name, rows
from align.errors import DataError

HERE = Path()


def read(path: Path, **options) -> list[Row]:
    return list(rows(Data(path=str(path), **options), HERE))


def places(found: list[Row]) -> list[str]:
    return [row.where.rpartition(":")[2] for row in found]


def test_json_lines_are_numbered_and_blank_lines_are_no_rows(file):
    found = read(file("a.jsonl", '{"text": "one"}\n\n"two"\n'))
    assert [(row.columns, row.where[-2:]) for row in found] == [({"text": "one"}, ":1"), ({"text": "two"}, ":3")]


def test_a_broken_line_is_an_error_of_that_row_only(file):
    found = read(file("a.jsonl", '{"a": 1}\n{"a": \n{"a": 3}\n[1]\n'))
    assert [row.error is None for row in found] == [True, False, True, False]
    assert found[1].where.endswith("a.jsonl:2") and "not JSON" in found[1].error
    assert "found list" in found[3].error


def test_elements_of_a_json_list_have_the_line_they_begin_on(file):
    found = read(file("a.json", '[\n {"a":\n  1},\n\n {"a": 2}, "three"\n]\n'))
    assert places(found) == ["2", "5", "5"]
    assert [row.columns for row in found] == [{"a": 1}, {"a": 2}, {"text": "three"}]
    assert read(file("b.json", " [ ] ")) == []


@pytest.mark.parametrize(("content", "line"), [('{"a": 1}', 1), ("[1,\n 2\n 3]", 3), ('[{"a": 1},\n oops]', 2)])
def test_broken_json_names_the_line(file, content, line):
    with pytest.raises(DataError, match=rf"a\.json:{line}: not JSON"):
        read(file("a.json", content))


def test_csv_rows_are_numbered_by_lines_though_cells_hold_line_breaks(file):
    found = read(file("a.csv", 'prompt,note\nq1,"two\nlines"\nq2,\nq3,x,y\n'))
    assert places(found) == ["2", "4", "5"]
    assert found[0].columns == {"prompt": "q1", "note": "two\nlines"}
    assert "as many cells as the header" in found[2].error


def test_csv_cells_may_be_longer_than_python_allows_by_default(file):
    (row,) = read(file("a.tsv", "text\n" + "x" * 200_000 + "\n"))
    assert len(row.columns["text"]) == 200_000


def test_a_byte_order_mark_is_not_part_of_the_first_column(file):
    assert read(file("a.csv", b"\xef\xbb\xbftext\nhi\n"))[0].columns == {"text": "hi"}


def test_another_encoding_is_named_in_the_error_and_read_when_given(file):
    path = file("a.txt", "caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.txt: not utf-8: .* at byte 3.*latin-1"):
        read(path)
    assert read(path, encoding="latin-1")[0].columns == {"text": "café"}


def test_text_rows_end_at_line_breaks_or_at_a_separator(file):
    path = file("a.txt", "one\ntwo\n<|end|>\n\nthree\n")
    assert [row.columns["text"] for row in read(path)] == ["one", "two", "<|end|>", "three"]
    found = read(path, options={"separator": "<|end|>"})
    assert [(row.columns["text"], row.where[-2:]) for row in found] == [("one\ntwo", ":1"), ("three", ":5")]


def test_gz_and_zip_members_are_read_in_place(file, tmp_path):
    assert read(file("a.jsonl.gz", gzip.compress(b'{"a": 1}\n')))[0].columns == {"a": 1}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/x.jsonl", '{"a": 2}\n')
        archive.writestr("in/y.pos", "a line\n")
    (row,) = read(tmp_path / "a.zip", member="in/x.jsonl")
    assert row.columns == {"a": 2} and row.where.endswith("a.zip!in/x.jsonl:1")
    assert read(tmp_path / "a.zip", member="in/y.pos")[0].columns == {"text": "a line"}
    with pytest.raises(DataError, match=r"which file of the zip with member: in/x\.jsonl, in/y\.pos"):
        read(tmp_path / "a.zip")
    with pytest.raises(DataError, match=r"no member 'in/x\.json'\. Did you mean 'in/x\.jsonl'"):
        read(tmp_path / "a.zip", member="in/x.json")


def test_parquet(tmp_path):
    from pyarrow import Table, parquet

    parquet.write_table(Table.from_pylist([{"a": 1, "b": None}, {"a": 2, "b": ["x"]}]), tmp_path / "a.parquet")
    assert [row.columns for row in read(tmp_path / "a.parquet")] == [{"a": 1}, {"a": 2, "b": ["x"]}]
    packed = io.BytesIO((tmp_path / "a.parquet").read_bytes())
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(packed.getvalue()))
    assert places(read(tmp_path / "b.parquet.gz")) == ["1", "2"]


def test_a_folder_is_its_files_and_a_split_those_that_begin_with_it(file, tmp_path):
    for name in ("train-0.jsonl", "train-1.jsonl", "test.jsonl", "trainer.jsonl", "README.md"):
        file(f"d/{name}", json.dumps({"a": name}) + "\n")
    folder = tmp_path / "d"
    assert [r.columns["a"] for r in read(folder, split="train")] == ["train-0.jsonl", "train-1.jsonl"]
    assert len(read(folder)) == 4
    with pytest.raises(DataError, match="no data file of split 'dev'"):
        read(folder, split="dev")


def test_a_folder_saved_by_datasets(tmp_path):
    import datasets

    table = datasets.Dataset.from_list([{"text": "x"}])
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved", split="test")[0].columns == {"text": "x"}
    with pytest.raises(DataError, match="say which split: train, test"):
        read(tmp_path / "saved")


def test_two_text_files_make_pairs_row_by_row(file):
    good, _ = file("pos.txt", "good\nfine\n"), file("neg.txt", "bad\nawful\n")
    found = read(good, options={"rejected": "neg.txt"})
    assert [row.columns for row in found] == [
        {"chosen": "good", "rejected": "bad"}, {"chosen": "fine", "rejected": "awful"},
    ]  # fmt: skip
    file("neg.txt", "bad\n")
    with pytest.raises(DataError, match="different numbers of rows"):
        read(good, options={"rejected": "neg.txt"})
    assert files(Data(path=str(good), options={"rejected": "neg.txt"}), HERE) == [good, good.parent / "neg.txt"]


@pytest.mark.parametrize("separator", [None, "%"])
def test_a_blank_row_of_one_file_does_not_shift_the_pairs_after_it(file, separator):
    def rows(*texts):
        return "".join(text + (separator or "\n") for text in texts)

    good, _ = file("pos.txt", rows("good", "", "fine", "", "")), file("neg.txt", rows("bad", "poor", "awful", ""))
    found = read(good, options={"rejected": "neg.txt"} | ({"separator": separator} if separator else {}))
    assert [tuple(row.columns.values()) for row in found] == [("good", "bad"), ("", "poor"), ("fine", "awful")]


def test_columns_are_renamed_and_misspelt_ones_refused(file):
    path = file("a.jsonl", '{"prompt": "q", "answer": "r", "id": 7}\n')
    assert read(path, columns={"completion": "answer"})[0].columns == {"prompt": "q", "completion": "r", "id": 7}
    with pytest.raises(DataError, match=r"a\.jsonl:1: columns: there is no column 'anser'\. Did you mean 'answer'"):
        read(path, columns={"completion": "anser"})


def test_what_is_not_there_is_named_with_the_nearest(file):
    path = file("train.jsonl", "")
    with pytest.raises(DataError, match=r"trian\.jsonl: no such file or folder\. Did you mean 'train\.jsonl'"):
        read(path.with_name("trian.jsonl"))
    with pytest.raises(DataError, match=r"unknown type of file '\.xlsx'"):
        read(file("a.xlsx", ""))


@pytest.mark.parametrize(
    ("path", "hub"),
    [("Anthropic/hh-rlhf", True), ("gsm8k", True), ("rows.jsonl", False), ("data/rows.csv.gz", False), ("../x", False),
     ("/x/y", False), ("a/b/c", False), (".", False)],
)  # fmt: skip
def test_hub_names_are_told_from_paths(tmp_path, path, hub):
    assert is_hub_name(path, tmp_path) is hub


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_half_a_character_is_a_bad_row_with_its_place(tmp_path, suffix):
    """A smiley is \\ud83d\\ude00 in JSON; a text that was cut between the two cannot be written again."""
    written = ['{"prompt": "a", "reply": "so \\ud83d\\ude00"}', '{"prompt": "b", "reply": "well \\uD83D"}']
    text = "\n".join(written) if suffix == "jsonl" else f"[{written[0]},\n{written[1]}]"
    (tmp_path / f"r.{suffix}").write_text(text)
    whole, half = read(tmp_path / f"r.{suffix}")
    assert whole.columns["reply"] == "so \N{GRINNING FACE}"
    assert half.where.endswith(f"r.{suffix}:2") and half.error is not None
    assert half.error.startswith("half a character (\\ud83d) after") and "well " in half.error
