import json
from pathlib import Path

import pytest

from align.config import Data
from align.data.checks import check


def write(file, name: str, rows: list[dict]) -> str:
    return str(file(name, "".join(json.dumps(row) + "\n" for row in rows)))


def test_one_file_of_pairs(file, tmp_path):
    pairs = [
        ("q1", "a b c", "a"),
        ("q1", "a b", "a"),
        ("q2", "a", "b c"),
        ("q3", "x", "y"),
        ("q3", "x", "y"),
        ("q4", "s", "s"),
    ]
    path = write(file, "a.jsonl", [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in pairs])
    (made,), overlaps = check(Data(path=path), tmp_path)
    assert (made.format, made.rows, made.records, made.bad) == ("pairs", 6, {"Preference": 5}, 1)
    assert made.errors == {"not a Preference: 'chosen' and 'rejected' are the same": 1}
    assert made.first_bad == f"{path}:6"
    assert made.duplicates == 1 and made.prompts == 3 and overlaps == []
    assert made.words == {"median": 1, "p95": 3, "max": 3}
    bias = made.length_bias
    assert bias.longer == pytest.approx(3 / 5)  # longer twice, shorter once, two ties at a half
    assert (bias.chosen_words, bias.rejected_words) == (pytest.approx(8 / 5), pytest.approx(6 / 5))


def test_the_interval_is_wilsons(file, tmp_path):
    from statsmodels.stats.proportion import proportion_confint

    rows = [
        {"prompt": f"{i}", "chosen": "a b" if i < 30 else "a", "rejected": "c" if i < 30 else "c d"} for i in range(40)
    ]
    (made,), _ = check(Data(path=write(file, "a.jsonl", rows)), tmp_path)
    low, high = proportion_confint(30, 40, method="wilson")
    assert (made.length_bias.low, made.length_bias.high) == (
        pytest.approx(low, abs=1e-4),
        pytest.approx(high, abs=1e-4),
    )


def test_prompts_that_train_and_test_share(file, tmp_path):
    def rows(low, high):
        return [{"question": f"{i}", "answer": "x"} for i in range(low, high)]

    write(file, "d/train.jsonl", rows(0, 20)), write(file, "d/test.jsonl", rows(18, 23))
    checks, (overlap,) = check(Data(path=str(tmp_path / "d")), tmp_path)
    assert [made.rows for made in checks] == [5, 20]
    assert overlap.first.endswith("test.jsonl") and overlap.second.endswith("train.jsonl")
    assert (overlap.shared, overlap.share) == (2, 2 / 5)


def test_a_file_of_bad_rows_is_told_not_raised(file, tmp_path):
    (made,), _ = check(Data(path=write(file, "a.jsonl", [{"goal": "x"}, {"goal": "y"}])), tmp_path)
    assert made.bad == made.rows == 2 and not made.records and made.length_bias is None


def test_real_pairs_where_shorter_replies_are_preferred(real):
    (made,), _ = check(Data(path="hh-rlhf/test.jsonl.gz"), real / "data")
    assert (made.rows, made.bad, made.records) == (2312, 9, {"Preference": 2303})
    assert made.length_bias.high < 0.5


def test_a_folder_saved_by_datasets_is_checked_split_by_split(tmp_path):
    import datasets

    table = datasets.Dataset.from_list([{"text": "x"}, {"text": "y"}])
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(tmp_path / "saved")
    checks, (overlap,) = check(Data(path="saved"), tmp_path)
    assert [(Path(made.name).name, made.rows) for made in checks] == [("train", 2), ("test", 1)]
    assert overlap.shared == 1
    table.save_to_disk(tmp_path / "one")
    assert [made.rows for made in check(Data(path="one"), tmp_path)[0]] == [2]
    assert [made.rows for made in check(Data(path="saved", split="test"), tmp_path)[0]] == [1]
