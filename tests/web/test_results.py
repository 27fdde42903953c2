"""Votes as records, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from align.config import Data
from align.data import load
from align.data.convert import replies
from align.web.items import Item
from align.web.results import Outcome, demonstrations, judgements, preferences, summary, win_rates
from align.web.votes import Log, Vote
from tests.web.conftest import item, say

PAIR, TRIPLE = item("a?", "x", "y"), item("b?", "x", "y", "z")


def vote(ranks, on: Item = PAIR, by="ann", **more) -> Vote:
    return Vote(by, on, tuple(range(len(on.replies))), ranks, **more)


def pairs(made) -> list[tuple[list[str], float]]:
    return [(replies(one), one.label) for one in made]


def test_one_persons_choice_is_a_pair():
    (made,) = preferences([vote((1, 0))], "drop")
    assert (replies(made), made.label, made.prompt) == (["y", "x"], 1.0, PAIR.prompt)
    assert made.extra == {"chosen_by": ["b"], "rejected_by": ["a"], "votes": {"chosen": 1, "tie": 0, "rejected": 0}}


def test_several_peoples_choices_are_a_soft_label():
    votes = [vote((0, 1)), vote((1, 0), by="bob"), vote((1, 0), by="cy"), vote((0, 0), by="di")]
    assert pairs(preferences(votes, "drop")) == [(["y", "x"], 0.625)]


def test_ties_are_left_out_or_kept_with_an_even_label():
    split = [vote((0, 1)), vote((1, 0), by="bob")]
    for votes in ([vote((0, 0))], split):
        assert preferences(votes, "drop") == []
        assert pairs(preferences(votes, "soft")) == [(["x", "y"], 0.5)]


def test_a_ranking_is_all_its_pairs():
    made = preferences([vote((1, 0, 1), TRIPLE)], "drop")
    assert pairs(made) == [(["y", "x"], 1.0), (["y", "z"], 1.0)]


def test_a_correction_is_better_than_what_it_corrects_and_a_demonstration():
    votes = [vote(None, correction="z", corrects=1)]
    assert pairs(preferences(votes, "drop")) == [(["z", "y"], 1.0)]
    (made,) = demonstrations(votes)
    assert [m.content for m in made.messages] == ["a?", "z"]
    assert made.supervised == (1,)


def test_an_approved_reply_is_a_demonstration_unless_it_was_cut():
    single = item("c?", "x")
    assert [m.content for m in demonstrations([vote((0,), single)])[0].messages] == ["c?", "x"]
    cut = replace(single, replies=(replace(single.replies[0], unfinished=True),))
    assert demonstrations([vote((0,), cut)]) == []


def test_a_reply_to_a_bare_prompt_is_a_demonstration_only():
    votes = [vote(None, item("d?"), correction="z")]
    assert preferences(votes, "soft") == []
    assert len(demonstrations(votes)) == 1


def test_cut_replies_are_marked():
    cut = replace(PAIR, replies=(PAIR.replies[0], replace(PAIR.replies[1], unfinished=True)))
    assert preferences([vote((1, 0), cut)], "drop")[0].unfinished == ("chosen",)
    assert preferences([vote((0, 1), cut)], "drop")[0].unfinished == ("rejected",)


def test_what_anybody_flagged_makes_no_record():
    votes = [vote((0, 1)), vote((0, 1), by="bob", flagged=True, comment="a phone number"), vote((0, 1, 1), TRIPLE)]
    assert {one.id for one in preferences(votes, "drop")} == {"b?"}
    assert summary(votes, "drop")["comments"][0]["comment"] == "a phone number"


def test_win_rates_count_ties_half_and_shared_replies_as_ties():
    shared = replace(TRIPLE, replies=(replace(PAIR.replies[0], sources=("a", "b")), TRIPLE.replies[2]))
    votes = [vote((0, 1)), vote((0, 1), by="bob"), vote((0, 0), item("e?", "x", "y")), vote((0, 1), shared)]
    rates = {(row["policy"], row["baseline"]): row for row in win_rates(votes)}
    row = rates["a", "b"]
    assert (row["win"], row["tie"], row["loss"], row["n"]) == (2, 2, 0, 3)
    assert row["rate"] == pytest.approx((1 + 0.5 + 0.5) / 3)  # each prompt counts once
    assert row["low"] <= row["rate"] <= row["high"]
    assert rates["a", "c"]["rate"] == rates["b", "c"]["rate"] == 1


def test_a_rate_of_one_is_not_certain():
    (row,) = win_rates([vote((0, 1), item(f"{i}", "x", "y")) for i in range(10)])
    assert (row["rate"], row["high"]) == pytest.approx((1, 1))
    assert row["low"] == pytest.approx(0.7225, abs=1e-4)  # Wilson: 10 / (10 + 1.96 ** 2)


def test_agreement_is_on_pairs_of_replies_whatever_the_screen_showed():
    votes = [vote((0, 1)), replace(vote((0, 1), by="bob"), shown=(1, 0)), vote((0, 0, 1), TRIPLE)]
    found = judgements(votes)
    assert list(found["ann"].values()) == [1, 0, 1, 1]
    assert found["bob"].items() <= found["ann"].items()
    said = summary([*votes, vote((1, 0, 1), TRIPLE, by="bob")], "drop")["agreement"]
    assert (said["n"], said["same"]) == (4, 0.5)  # x-y twice; x-z and y-z
    # By hand: ann says 1, 0, 1, 1 and bob 1, -1, 0, 1, so chance is 3/4 * 2/4 + 1/4 * 1/4 = 7/16.
    assert said["value"] == pytest.approx((0.5 - 7 / 16) / (1 - 7 / 16))


def test_turns_of_one_conversation_are_one_observation():
    """Ten conversations of two turns, whose votes agree: no surer than ten prompts."""
    first = [item(f"{i}?", "x", "y") for i in range(10)]
    more = [replace(one, prompt=(*one.prompt, *say("a", "assistant"), *say("b"))) for one in first]
    halves = [[(0, 1), (1, 0)][i % 2] for i in range(10)] * 2
    votes = [vote(ranks, on, by) for by in ("ann", "bob") for ranks, on in zip(halves, first + more, strict=True)]
    found, alone = (summary(cast, "drop") for cast in (votes, [v for v in votes if v.item in first]))
    assert (found["agreement"]["n"], found["agreement"]["clusters"], alone["agreement"]["clusters"]) == (20, 10, None)
    assert found["agreement"]["low"] <= alone["agreement"]["low"]
    (row,), (of_ten,) = found["win_rates"], alone["win_rates"]
    assert row["n"] == 20 and row["low"] <= of_ten["low"]


def test_the_lines_for_a_recipe_read_what_was_exported(tmp_path):
    log = Log(tmp_path / "a: #b" / "votes.jsonl")
    outcome = Outcome(log, log.path.parent, "drop")
    assert outcome.entries() == ""
    log.add(vote((0, 1)))
    log.add(vote(None, TRIPLE, correction="better", corrects=0))
    entries = yaml.safe_load(outcome.entries())["data"]
    assert {name: len(load(Data(**spec), 0, tmp_path)) for name, spec in entries.items()} == {
        "preferences": 2,
        "demonstrations": 1,
    }
    log.undo("ann")
    assert list(outcome.export()) == ["preferences"]
    assert not (log.path.parent / "demonstrations.jsonl").exists()
