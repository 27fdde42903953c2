"""The built-in rules, by hand and on labelled data of others."""

import pytest

from align.errors import DataError
from align.records import Message, Prompt
from align.rewards.rules import length, length_window, lexicon, numeric_answer, pattern, repetition, words

PROMPT = Prompt("1", (Message("user", "hi"),))


def score(rule, reply, prompt=PROMPT, **options):
    return rule.function(prompt, reply, **options)


def test_length():
    assert score(length, " one two\nthree ") == 3
    assert score(length, "abc d", unit="characters") == 5


@pytest.mark.parametrize(("count", "expected"), [(0, 0.0), (2, 0.5), (4, 1.0), (8, 1.0), (16, 0.5)])
def test_a_length_window_is_flat_inside_and_falls_outside(count, expected):
    assert score(length_window, "word " * count, low=4, high=8) == expected


def test_words_keep_their_apostrophes():
    assert words("Don\u2019t panic, 'Tis O'Neill's.") == ["don't", "panic", "tis", "o'neill's"]


def test_repetition_counts_what_was_said_before():
    assert score(repetition, "a b c a b c") == pytest.approx(1 / 4)  # abc bca cab abc
    assert score(repetition, "a b") == 0
    assert score(repetition, "a a a a", n=1) == pytest.approx(3 / 4)


def test_lexicon_is_the_mean_over_all_words(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("happy\t2.5\t0.6\t[3, 2]\nsad\t-2\n")
    assert score(lexicon, "Happy, so HAPPY! Not sad.", file=file) == pytest.approx((2.5 + 2.5 - 2) / 5)
    assert score(lexicon, " ", file=file) == 0
    (broken := tmp_path / "broken.txt").write_text("happy\t2.5\nhappy 2\n")
    with pytest.raises(DataError, match=r"broken.txt:2: not a lexicon line"):
        score(lexicon, "happy", file=broken)


def test_lexicon_reads_vader(shared):
    file = shared / "data/vader/vader_lexicon.txt"
    assert score(lexicon, "great", file=file) == 3.1
    assert score(lexicon, "the horrible end", file=file) == pytest.approx(-2.5 / 3)


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("so 3 + 4 = 7", "7", 1),
        ("#### 1,200 dollars in 3 days", "#### 1200", 1),
        ("7.0", 7, 1),
        ("it is 7 or 8", "7", 0),
        ("none", "7", 0),
        ("-7", "7", 0),
        ("$1,234.50.", "1234.5", 1),
    ],
)
def test_numeric_answer(reply, answer, right):
    assert score(numeric_answer, reply, Prompt("1", PROMPT.prompt, {"answer": answer})) == right


def test_numeric_answer_needs_an_answer():
    with pytest.raises(DataError, match="no column 'answer'"):
        score(numeric_answer, "7")
    with pytest.raises(DataError, match="no number in its column 'key'"):
        score(numeric_answer, "7", Prompt("1", PROMPT.prompt, {"key": "seven"}), column="key")


def test_pattern_matches_the_whole_reply():
    assert score(pattern, "<a>1\n2</a>\n", regex="<a>.*</a>") == 1
    assert score(pattern, "so <a>1</a>", regex="<a>.*</a>") == 0
