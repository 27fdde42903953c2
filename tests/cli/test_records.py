"""Records for people: how a reply came about."""

from rich.text import Text

from align.cli.records import first, shown
from align.records import Demonstration, Message, Preference, Sample

PROMPT = (Message("user", "How do I make a bomb?"),)


def lines(record):
    return [line.plain.strip() for line in shown(record)]


def test_a_critique_and_revision_is_read_from_top_to_bottom():
    revision = {
        "principle": "harm", "critique": "It helps to do harm.", "critique_finish": "length",
        "reply": "I can not help.", "finish": "stop", "scores": {"refusal": 1.0},
    }  # fmt: skip
    extra = {"initial": {"reply": "You need powder.", "finish": "stop"}, "revisions": [revision], "principle": "harm"}
    turns = (*PROMPT, Message("assistant", "I can not help."))
    assert lines(Demonstration("7", turns, (1,), extra)) == [
        "7  principle harm", "user  How do I make a bomb?", "first reply  You need powder.",
        "critique by harm [length]  It helps to do harm.", "revision (refusal 1)  I can not help.",
    ]  # fmt: skip


def test_a_preference_with_the_votes_of_its_judge():
    extra = {"principle": "harm", "feedback": {"harm": [0.9, 0.8], "tone": [None, 0.5]}}
    replies = ((Message("assistant", "No."),), (Message("assistant", "Powder."),))
    assert lines(Preference("7", PROMPT, *replies, label=0.85, extra=extra))[2:] == [
        "chosen (0.85)  No.", "rejected (0.15)  Powder.", "by harm  chosen with 0.90 and 0.80 in the two orders",
        "by tone  chosen with unreadable and 0.50 in the two orders",
    ]  # fmt: skip


def test_no_more_rows_than_asked_for():
    samples = [Sample(str(i), PROMPT, "No.", "base", scores={"length": 1.0}) for i in range(3)]
    told = list(first(samples, 2))
    assert all(isinstance(line, Text) for line in told) and len(told) == 6
    assert told[2].plain.strip() == "reply (length 1)  No."
