"""`align data check` on files with known faults."""

from __future__ import annotations

import json


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_good_file_is_described(align, tmp_path):
    pairs = [{"prompt": f"p{i}", "chosen": "yes it is", "rejected": "no"} for i in range(20)]
    write(tmp_path / "pairs.jsonl", *pairs, pairs[0])
    checked = align("data", "check", "pairs.jsonl")
    assert checked.code == 0
    assert "21 rows: 21 Preference" in checked.out
    assert "20 different prompts" in checked.out
    assert "1 duplicates" in checked.out
    assert "the longer one in 100.0%" in checked.out
    assert "(3 against 1 words)" in checked.out


def test_bad_rows_are_exit_1_with_the_place_of_the_first(align, tmp_path):
    write(tmp_path / "demos.jsonl", {"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": ""})
    checked = align("data", "check", "demos.jsonl")
    assert checked.code == 1
    assert "1 bad rows, the first at demos.jsonl:2" in checked.out


def test_what_two_files_of_a_folder_share_is_told(align, tmp_path):
    (tmp_path / "both").mkdir()
    rows = [{"prompt": f"p{i}", "completion": "x"} for i in range(10)]
    write(tmp_path / "both" / "train.jsonl", *rows[:8])
    write(tmp_path / "both" / "test.jsonl", *rows[6:])
    assert "share 2 prompts (50.0% of the smaller)" in align("data", "check", "both").out


def test_a_file_that_is_not_there(align):
    missing = align("data", "check", "nowhere.jsonl")
    assert missing.code != 0
    assert "nowhere.jsonl: no such file" in missing.err
