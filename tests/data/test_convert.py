from dataclasses import replace

import pytest

from align.data.convert import convert, prompt_of, replies
from align.errors import DataError
from align.records import Demonstration, Message, Preference, Prompt, Rated, Record, Sample, Text

ASK, YES, NO = (Message("user", "q"),), (Message("assistant", "yes"),), (Message("assistant", "no"),)
PAIR = Preference("p", ASK, YES, NO, extra={"source": "x"})
DEMO = Demonstration("d", ASK + YES + (Message("user", "and?"),) + NO)
SAMPLES = [Sample("s", ASK, text, "sft", index, scores={"length": 1.0}) for index, text in enumerate(("a", "b"))]


def test_a_preference_is_a_demonstration_of_its_chosen_reply():
    assert convert([PAIR], Demonstration) == [Demonstration("p", ASK + YES, (1,), {"source": "x"})]


def test_earlier_replies_of_a_preferences_prompt_are_not_supervised():
    (made,) = convert([Preference("p", ASK + NO + ASK, YES, NO)], Demonstration)
    assert made.supervised == (3,)


def test_a_preference_is_two_thumbs():
    assert convert([PAIR], Rated) == [
        Rated("p", ASK, YES, 1.0, {"source": "x"}), Rated("p", ASK, NO, 0.0, {"source": "x"}),
    ]  # fmt: skip


@pytest.mark.parametrize("record", [PAIR, DEMO, Rated("r", ASK, YES, 1.0), SAMPLES[0], Prompt("q", ASK)])
def test_everything_with_a_prompt_is_a_prompt(record):
    (made,) = convert([record], Prompt)
    assert made.prompt == prompt_of(record) and made.id == record.id
    assert made.prompt[-1].role == "user"


def test_a_prompt_is_kept_once_however_many_replies_it_had():
    other = replace(PAIR, prompt=(Message("user", "another question"),))
    assert [p.prompt for p in convert([*SAMPLES, PAIR, PAIR, other], Prompt)] == [ASK, other.prompt], "whatever its id"
    assert len(convert([Prompt("q", ASK)] * 2, Prompt)) == 2, "rows that are prompts already stay as they are"


def test_a_sample_is_a_text_and_with_one_score_a_rating():
    assert [t.text for t in convert(SAMPLES, Text)] == ["a", "b"]
    assert convert(SAMPLES[:1], Rated)[0].score == 1.0
    with pytest.raises(DataError, match="exactly one score; this one has 2"):
        convert([Sample("s", ASK, "a", "sft", scores={"a": 1.0, "b": 2.0})], Rated)


@pytest.mark.parametrize(
    ("record", "kind", "way"),
    [(DEMO, Preference, "stage `prefer`"), (SAMPLES[0], Preference, "stage `prefer`"), (PAIR, Sample, "Stage `sample`"),
     (Text("t", "x"), Prompt, "prompt_words"), (SAMPLES[0], Demonstration, "stage `prefer`"),
     (DEMO, Text, "`text` column")],
)  # fmt: skip
def test_where_there_is_no_natural_way_the_error_says_what_makes_the_kind(record: Record, kind, way):
    with pytest.raises(DataError, match=rf"needs {kind.__name__} records, found a {type(record).__name__}\. .*{way}"):
        convert([record], kind)


def test_replies_are_what_is_judged():
    assert replies(DEMO) == ["yes", "no"] and replies(PAIR) == ["yes", "no"] and replies(Prompt("q", ASK)) == []
    assert replies(Demonstration("d", DEMO.messages, (3,))) == ["no"]


def test_a_demonstration_is_a_ready_answer():
    (sample,) = convert([DEMO], Sample)
    assert (*sample.prompt, Message("assistant", sample.reply)) == DEMO.messages
