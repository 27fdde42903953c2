"""Polls and chats: whose turn is what, blind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from align.config import Sampling
from align.errors import CheckError
from align.generate.scripted import ScriptedGenerator
from align.web.desk import Ballot, Chat, Poll
from align.web.votes import Log
from tests.web.conftest import item


def on(poll, annotator="ann", **fields) -> Ballot:
    return Ballot(annotator=annotator, item=poll.pending(annotator).id, **fields)


def test_everybody_sees_every_item_in_an_order_of_their_own(poll):
    desk = poll(*(item(f"{i}", "x", "y") for i in range(8)))

    def order(annotator):
        seen = []
        while (pending := desk.pending(annotator)) is not None:
            seen.append(pending.record)
            desk.vote(on(desk, annotator, ranks=(0, 1)))
        return seen

    ann, bob = order("ann"), order("bob")
    assert sorted(ann) == sorted(bob) == [f"{i}" for i in range(8)]
    assert ann != bob
    assert desk.done("ann") == 8


def test_replies_are_shown_in_both_orders_equally_often(poll):
    desk = poll(*(item(f"{i}", "x", "y") for i in range(400)))
    first = sum(desk.shown("ann", one)[0] == 0 for one in desk.items)
    assert 160 < first < 240  # 4 standard deviations
    again = Poll(desk.items, desk.log, seed=0)
    assert [again.shown("ann", one) for one in desk.items] == [desk.shown("ann", one) for one in desk.items]


def test_what_was_chosen_on_the_screen_is_what_is_kept(poll):
    desk = poll(item("?", "w", "x", "y"))
    shown = desk.shown("ann", desk.items[0])
    vote = desk.vote(on(desk, ranks=(2, 0, 1), correction="better", corrects=1))
    assert [vote.ranks[reply] for reply in shown] == [2, 0, 1]
    assert vote.corrects == shown[1]
    assert vote.shown == shown


def test_an_item_is_voted_on_once_and_undone_at_will(poll):
    desk = poll()
    first = on(desk, ranks=(0, 1), comment="hm")
    desk.vote(first)
    with pytest.raises(CheckError, match="voted on already"):
        desk.vote(first)
    assert desk.done("ann") == 1
    taken = desk.undo("ann")
    assert taken is not None and taken.comment == "hm"
    assert desk.pending("ann").id == first.item
    assert desk.undo("ann") is None


def test_wrong_numbers_are_refused(poll):
    desk = poll()
    with pytest.raises(CheckError, match="3 ranks for 2 replies"):
        desk.vote(on(desk, ranks=(0, 1, 2)))
    with pytest.raises(CheckError, match="no reply 3"):
        desk.vote(on(desk, correction="x", corrects=2))
    with pytest.raises(ValueError, match="printable"):
        Ballot(annotator="a\nb", item="x")


def test_votes_on_other_items_do_not_count_as_progress(poll):
    old = poll(item("old", "x", "y"))
    old.vote(on(old, ranks=(0, 1)))
    desk = Poll([item("new", "x", "y")], old.log, seed=0)
    assert (desk.done("ann"), desk.total) == (0, 1)


@pytest.fixture
def chat(tmp_path):
    def script(name):
        return ScriptedGenerator(lambda prompt, index: f"{name} on {prompt[-1].content}")

    def make(*names, **more) -> Chat:
        contestants = {name: script(name) for name in names}
        return Chat(contestants, Sampling(), Log(tmp_path / "votes.jsonl"), 0, **more)

    return make


def told(messages) -> list[str]:
    return [message.content for message in messages]


def test_a_chat_with_two_goes_on_with_the_preferred_reply(chat):
    desk = chat("A", "B", system="Be brief.")
    made = desk.say("ann", "hello")
    assert {told(reply.messages)[0] for reply in made.replies} == {"A on hello", "B on hello"}
    with pytest.raises(CheckError, match="first say"):
        desk.say("ann", "and?")
    best = told(made.replies[desk.shown("ann", made)[1]].messages)
    desk.vote(on(desk, ranks=(1, 0)))
    assert desk.pending("ann") is None
    assert told(desk.conversation("ann")) == ["Be brief.", "hello", *best]
    assert told(desk.say("ann", "and?").prompt) == ["Be brief.", "hello", *best, "and?"]
    assert told(desk.conversation("bob")) == ["Be brief."]


def test_a_chat_with_one_takes_an_unvoted_reply_as_accepted(chat):
    desk = chat("A")
    desk.say("ann", "one")
    assert told(desk.say("ann", "two").prompt) == ["one", "A on one", "two"]
    desk.vote(on(desk, correction="no", corrects=0))
    assert told(desk.conversation("ann"))[-1] == "no"


def test_undo_brings_a_turn_back_and_restart_forgets(chat):
    desk = chat("A", "B")
    asked = desk.say("ann", "hello")
    desk.vote(on(desk, ranks=(0, 0)))
    desk.say("ann", "more")
    desk.undo("ann")
    assert desk.pending("ann") == asked
    desk.restart("ann")
    assert (desk.pending("ann"), desk.conversation("ann")) == (None, ())


def test_contestants_who_say_the_same_are_one_reply(tmp_path):
    same = ScriptedGenerator(lambda prompt, index: "same")
    desk = Chat({"A": same, "B": same}, Sampling(), Log(tmp_path / "votes.jsonl"), 0)
    (reply,) = desk.say("ann", "hello").replies
    assert reply.sources == ("A", "B")


def test_undo_leaves_votes_on_other_items_alone(poll):
    """A log may hold what was voted on in other records; nobody would see what became of those."""
    old = poll(item("old", "x", "y"))
    old.vote(on(old, correction="better", corrects=0))
    desk = Poll([item("new", "x", "y"), item("newer", "x", "y")], old.log, seed=0)
    assert desk.undo("ann") is None
    desk.vote(first := on(desk, ranks=(0, 1)))
    old.log.add(replace(old.log.votes["ann"][old.items[0].id], comment="voted on in between"))
    taken = desk.undo("ann")
    assert taken is not None and taken.item.id == first.item
    assert [vote.item.record for vote in desk.log.standing()] == ["old"]


def test_a_correction_that_changes_nothing_is_refused(poll):
    """It would be a preference over itself."""
    desk = poll(item("?", "x", "y"))
    shown = [("x", "y")[i] for i in desk.shown("ann", desk.items[0])]
    with pytest.raises(CheckError, match="as it was"):
        desk.vote(on(desk, correction=f"{shown[1]}\n", corrects=1))
    desk.vote(on(desk, correction=shown[0], corrects=1))
