import json

import pytest

from align.config import Data
from align.data.load import load, loaded, share_of
from align.errors import DataError
from align.records import Demonstration, Message, Preference, Prompt


@pytest.fixture
def lines(file):
    """`lines(rows)` writes JSON lines and returns the path as text."""
    return lambda rows, name="rows.jsonl": str(file(name, "".join(json.dumps(row) + "\n" for row in rows)))


@pytest.fixture
def numbered(lines):
    """Forty rows `q0` .. `q39`."""
    return lines([{"prompt": f"q{i}", "completion": f"r{i} " * (i + 1)} for i in range(40)])


def asked(records) -> list[str]:
    return [record.messages[0].content for record in records]


def test_parts_are_disjoint_complete_and_independent_of_the_rest_of_the_file(numbered, lines, tmp_path):
    def part(path, low, high, seed=3):
        return asked(load(Data(path=path, part=(low, high)), seed, tmp_path))

    train, test = part(numbered, 0.0, 0.7), part(numbered, 0.7, 1.0)
    assert sorted(train + test) == sorted(asked(load(Data(path=numbered), 3, tmp_path)))
    assert not set(train) & set(test) and len(train) > len(test) > 4
    longer = lines([{"prompt": f"q{i}", "completion": "other"} for i in range(-5, 40)], "longer.jsonl")
    assert set(test) <= set(part(longer, 0.7, 1.0)), "a prompt stays in its part when the file grows"
    assert part(numbered, 0.7, 1.0, seed=4) != test


def test_all_replies_to_a_prompt_fall_into_one_part():
    question = (Message("user", "q"),)
    replies = [(Message("assistant", text),) for text in "abc"]
    records = [Preference("x", question, a, b) for a in replies for b in replies] + [Prompt("x", question)]
    assert len({share_of(record, 0) for record in records}) == 1
    bare = [Preference("x", (), a, b) for a in replies for b in replies]
    assert len({share_of(record, 0) for record in bare}) == 9, "pairs without a prompt go by their content"


def test_limit_and_skip_share_no_row_though_rows_between_are_bad(lines, tmp_path):
    rows = [{"prompt": f"q{i}", "completion": "" if i % 3 == 0 else "r"} for i in range(30)]
    path = lines(rows)
    first, rest = (
        load(Data(path=path, on_bad_row="skip", **cut), 0, tmp_path) for cut in ({"limit": 12}, {"skip": 12})
    )
    assert len(first) == 12 and len(rest) == 8
    assert asked(first) + asked(rest) == [f"q{i}" for i in range(30) if i % 3]


def test_shuffling_comes_before_the_cut_and_depends_on_the_seed(numbered, tmp_path):
    spec = Data(path=numbered, shuffle=True, limit=10)
    first = asked(load(spec, 0, tmp_path))
    assert first == asked(load(spec, 0, tmp_path)) != asked(load(spec, 1, tmp_path))
    rest = asked(load(spec.model_copy(update={"limit": None, "skip": 10}), 0, tmp_path))
    assert sorted(first + rest) == sorted(f"q{i}" for i in range(40)) and first != [f"q{i}" for i in range(10)]


def test_filters_by_words_count_what_they_drop(numbered, tmp_path):
    made = loaded(Data(path=numbered, min_words=5, max_words=10), 0, tmp_path)
    assert asked(made.records) == [f"q{i}" for i in range(4, 10)]
    assert made.dropped == {"shorter than 5 words": 4, "longer than 10 words": 30}


def test_of_a_pair_the_shorter_reply_counts_for_the_minimum_and_the_longer_for_the_maximum(lines, tmp_path):
    path = lines(
        [{"prompt": "q", "chosen": "a b c", "rejected": "a"}, {"prompt": "q", "chosen": "a b", "rejected": "c d"}]
    )
    assert len(load(Data(path=path, min_words=2), 0, tmp_path)) == 1
    assert len(load(Data(path=path, max_words=2), 0, tmp_path)) == 1


def test_duplicates_are_rows_of_the_same_content_whatever_their_extra_columns(lines, tmp_path):
    path = lines([{"prompt": "q", "completion": "r", "n": 1}, {"prompt": "q", "completion": "r", "n": 2},
                  {"prompt": "q", "completion": "s"}])  # fmt: skip
    made = loaded(Data(path=path, deduplicate=True), 0, tmp_path)
    assert [r.messages[1].content for r in made.records] == ["r", "s"] and made.dropped == {"duplicates": 1}


def test_a_bad_row_stops_with_its_file_line_and_column(lines, tmp_path):
    path = lines([{"prompt": "q", "completion": "r"}, {"prompt": "q", "answer": "r"}])
    with pytest.raises(DataError) as error:
        load(Data(path=path), 0, tmp_path)
    assert str(error.value) == (
        f"{path}:2: not a Demonstration: 'completion' is missing (columns here: prompt, answer). "
        "Map it: columns: {completion: answer} (on_bad_row: skip sets such rows aside)"
    )


def test_bad_rows_that_are_skipped_are_counted_and_kept_in_quarantine(lines, tmp_path):
    path = lines([{"prompt": "q", "completion": "r"}, {"prompt": "q"}, {"prompt": "p", "completion": "s"}])
    quarantine = tmp_path / "quarantine" / "demos.jsonl"
    made = loaded(Data(path=path, on_bad_row="skip"), 0, tmp_path, quarantine)
    assert len(made.records) == 2 and made.rows == 3 and made.dropped == {"bad rows": 1}
    (row,) = map(json.loads, quarantine.read_text().splitlines())
    assert (
        row["where"] == f"{path}:2" and "'completion' is missing" in row["error"] and row["columns"] == {"prompt": "q"}
    )


def test_no_record_at_all_is_an_error_that_says_where_they_went(lines, tmp_path):
    path = lines([{"prompt": "q"}, {"prompt": "p"}])
    with pytest.raises(
        DataError, match=r"no record is left of 2 rows \(2 bad rows\); the first bad row is .*:1: not a"
    ):
        load(Data(path=path, format="prompt_completion", on_bad_row="skip"), 0, tmp_path)


def test_a_file_without_rows_says_so(lines, tmp_path):
    with pytest.raises(DataError, match=r"rows\.jsonl: there are no rows in it"):
        load(Data(path=lines([])), 0, tmp_path)


def test_of_a_line_that_ends_too_soon_the_column_is_told(tmp_path):
    (tmp_path / "cut.jsonl").write_text('{"prompt": "a", "completion": \n')
    with pytest.raises(DataError, match=r"cut\.jsonl:1: not JSON: Expecting value at column 30"):
        load(Data(path=str(tmp_path / "cut.jsonl")), 0, tmp_path)


def test_columns_that_fit_no_format_are_shown_with_the_formats(lines, tmp_path):
    path = lines([{"goal": "x", "target": "y"}])
    said = (
        r"rows\.jsonl:1: no row format fits the columns goal, target\. .*: {prompt: goal, completion: target}; `align"
    )
    with pytest.raises(DataError, match=said):
        load(Data(path=path), 0, tmp_path)
    with pytest.raises(DataError, match=r"no row format 'alpacca'\. Did you mean 'alpaca'"):
        load(Data(path=path, format="alpacca"), 0, tmp_path)


def test_prompt_words_is_for_plain_text_only(numbered, file, tmp_path):
    with pytest.raises(DataError, match="prompt_words is for plain text; these rows are of format 'prompt_completion'"):
        load(Data(path=numbered, prompt_words=2), 0, tmp_path)
    (record,) = load(Data(path=str(file("a.txt", "one two three four\n")), prompt_words=2), 0, tmp_path)
    assert isinstance(record, Demonstration) and [m.content for m in record.messages] == ["one two", " three four"]


def test_relative_paths_start_at_the_recipe(numbered, tmp_path):
    assert len(load(Data(path="rows.jsonl"), 0, tmp_path)) == 40
