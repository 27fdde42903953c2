"""Items from records and comparisons."""

from __future__ import annotations

import json

import pytest

from align.data import write
from align.errors import DataError
from align.records import Demonstration, Message, Preference, Prompt, Sample, Text
from align.web.items import Item, at_most, items_of, items_of_comparison
from tests.web.conftest import item, say


def sample(prompt: str, reply: str, policy: str = "sft", **more) -> Sample:
    return Sample(prompt, say(prompt), reply, policy, **more)


def texts(found: Item) -> list[str]:
    return [reply.messages[0].content for reply in found.replies]


def test_replies_to_one_prompt_are_one_item_and_equal_ones_one_reply():
    rows = [sample("a", "x"), sample("b", "y"), sample("a", "z", finish="length"), sample("a", "x", "dpo")]
    first, second = items_of(rows)
    assert texts(first) == ["x", "z"]
    assert [reply.sources for reply in first.replies] == [("sft", "dpo"), ("sft",)]
    assert [reply.unfinished for reply in first.replies] == [False, True]
    assert texts(second) == ["y"]


def test_each_preference_is_an_item_of_its_own_and_a_repeated_one_is_asked_once():
    pairs = [Preference("1", say("a"), say(good, "assistant"), say("bad", "assistant")) for good in ("x", "y", "x")]
    assert [texts(found) for found in items_of(pairs)] == [["x", "bad"], ["y", "bad"]]
    assert items_of(pairs)[0].replies[0].sources == ("chosen",)


def test_a_demonstration_is_asked_about_its_last_reply_and_a_prompt_about_none():
    turns = (*say("a"), *say("b", "assistant"), *say("c"), *say("d", "assistant"))
    shown, empty = items_of([Demonstration("1", turns), Prompt("2", say("e"))])
    assert (shown.prompt, texts(shown)) == (turns[:3], ["d"])
    assert texts(empty) == []


def test_raw_text_is_refused():
    with pytest.raises(DataError, match="a Text without a prompt"):
        items_of([Text("1", "once upon a time")])


def test_a_comparison_gives_one_item_for_each_prompt_and_reply_number(tmp_path):
    for policy in ("sft", "dpo"):
        rows = [sample("a", f"{policy} {index}", "another name", index=index) for index in (0, 1)]
        write(rows, tmp_path / "replies" / f"{policy}.jsonl")
    found = items_of_comparison(tmp_path)
    assert [texts(one) for one in found] == [["dpo 0", "sft 0"], ["dpo 1", "sft 1"]]
    assert found[0].replies[0].sources == ("dpo",)


def test_a_comparison_without_replies_says_how_to_keep_them(tmp_path):
    with pytest.raises(DataError, match="--out DIR"):
        items_of_comparison(tmp_path)


def test_an_item_survives_json_and_is_named_by_what_people_read():
    made = Item((Message("system", "s"), *say("a")), item("a", "x", "y").replies, "id")
    again = Item.from_row(json.loads(json.dumps(made.row())))
    assert again == made
    assert item("a", "x", "y").id != item("a", "y", "x").id != item("b", "y", "x").id


def test_fewer_replies_are_drawn_by_the_seed():
    many = item("a", "w", "x", "y", "z")
    drawn = {tuple(texts(at_most(many, 2, seed))) for seed in range(40)}
    assert len(drawn) == 6
    assert at_most(many, 2, 7) == at_most(many, 2, 7)
    assert at_most(many, 4, 0) is many
