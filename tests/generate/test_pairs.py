"""Pairs of replies: who is beside whom, and which becomes the chosen one."""

from collections import Counter

import pytest

from align.generate.pairs import paired, preferences
from align.records import Message, Prompt

PROMPT = Prompt("1", (Message("user", "why?"),), {"topic": 3})


def test_neighbours_make_pairs():
    made = paired(tuple((text, "stop") for text in "abcde"), keep_unfinished=False)
    beside = [{"replies": [[one, "stop"], [other, "stop"]]} for one, other in ("ab", "cd")]
    assert made == {"judged": beside, "left_out": {}}


@pytest.mark.parametrize("turned", [False, True])
def test_the_likelier_reply_is_chosen_and_every_number_is_about_it(turned):
    """By harm 0.9 and 0.7, by manners 0.4 and 0.6, of one order only by help: 0.65 over the two that were read."""
    votes = {"manners": [0.4, 0.6], "harm": [0.9, 0.7], "help": [None, 1.0]}
    if turned:
        votes = {name: [q if q is None else 1 - q for q in both] for name, both in votes.items()}
    replies = [["good", "stop"], ["bad", "length"]][:: -1 if turned else 1]
    row = {"replies": replies, "principles": votes}
    (pair,) = preferences(PROMPT, {"judged": [row]}, 0.1, False, left_out := Counter())
    assert (pair.chosen[0].content, pair.rejected[0].content, pair.unfinished) == ("good", "bad", ("rejected",))
    assert pair.label == pytest.approx(0.65) and not left_out
    assert pair.extra["principle"] == "harm" and pair.extra["topic"] == 3
    assert pair.extra["feedback"]["harm"] == pytest.approx([0.9, 0.7])
    assert pair.extra["feedback"]["help"] == [None, 1.0 if not turned else pytest.approx(1.0)]
    assert not list(preferences(PROMPT, {"judged": [row]}, 0.2, False, left_out)) and left_out == {"ties": 1}
