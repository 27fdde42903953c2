"""Win rates by hand; the length-controlled one against a truth that is known."""

import numpy as np
import pytest

from align.evals.wins import Scored, Wins, controlled, scored, win_rate, wins
from align.records import Message, Sample, prompt_id


def asked(text):
    return (Message("user", text),)


def sample(text, reply, score, index=0):
    return Sample("id", asked(text), reply, "me", index=index, scores={} if score is None else {"kind": score})


def test_each_reply_is_held_against_each():
    """Prompt a: 2 beats 1, ties with 2; 0 loses twice: 1.5 of 4. Prompt b: a win. Prompt c is one's own."""
    ours = [sample("a", "xx", 2.0), sample("a", "x", 0.0, 1), sample("b", "xxx", 1.0), sample("c", "x", 1.0)]
    theirs = [sample("a", "", 1.0), sample("a", "xx", 2.0, 1), sample("b", "x", 0.0), sample("c", "x", None)]
    found = wins(scored(ours, "kind", "higher"), scored(theirs, "kind", "higher"))
    assert found.ids == (prompt_id(asked("a")), prompt_id(asked("b")))
    assert found.won.tolist() == [1, 0.5, 0, 0, 1]
    assert found.longer.tolist() == [2, 0, 1, -1, 2]
    assert found.rate.by_prompt.tolist() == [0.375, 1.0]
    turned = wins(scored(ours, "kind", "lower"), scored(theirs, "kind", "lower"))
    assert turned.rate.by_prompt.tolist() == [0.625, 0.0]


def test_a_rate_counts_ties_half():
    replies = [Scored(np.array([s]), np.array([1.0])) for s in (1.0, 1.0, 0.0, 0.0)]
    base = [Scored(np.array([s]), np.array([1.0])) for s in (0.0, 1.0, 0.0, 1.0)]
    found = win_rate(wins(dict(enumerate(replies)), dict(enumerate(base))), seed=0)
    assert (found["rate"], found["n"], found["controlled"]) == (0.5, 4, None)


def preferences(theta, phi, shift, prompts=20_000, seed=0):
    """Judgements by the model itself: of replies that are `shift` standard deviations longer on average."""
    chance = np.random.default_rng(seed)
    longer = np.round(chance.normal(shift * 100, 100, prompts))
    odds = theta + phi * np.tanh(longer / longer.std())
    won = (chance.random(prompts) < 1 / (1 + np.exp(-odds))).astype(float)
    return Wins(tuple(map(str, range(prompts))), np.arange(prompts), won, longer)


def test_a_win_that_is_all_length_is_none_at_equal_length():
    found = preferences(theta=0.0, phi=1.5, shift=0.8)
    assert found.rate.value > 0.65
    fair = controlled(found)
    assert fair["low"] < 0.5 < fair["high"] and fair["rate"] == pytest.approx(0.5, abs=0.02)


def test_a_win_beside_length_is_found():
    fair = controlled(preferences(theta=0.7, phi=-1.0, shift=0.5))
    assert fair["rate"] == pytest.approx(1 / (1 + np.exp(-0.7)), abs=0.015)
    assert fair["low"] < 1 / (1 + np.exp(-0.7)) < fair["high"]


def test_replies_of_one_prompt_widen_the_interval():
    """Every judgement said four times is no more evidence than said once."""
    once = preferences(0.3, 0.5, 0.2, prompts=200)
    often = Wins(once.ids, np.repeat(once.prompt, 4), np.repeat(once.won, 4), np.repeat(once.longer, 4))
    one, four = controlled(once), controlled(often)
    assert four == pytest.approx(one, rel=0.01)


def test_the_interval_covers():
    hits = []
    for trial in range(400):
        fair = controlled(preferences(0.4, 1.0, 0.5, prompts=150, seed=trial))
        hits.append(fair["low"] <= 1 / (1 + np.exp(-0.4)) <= fair["high"])
    assert 0.92 <= np.mean(hits) <= 0.98


def test_where_nothing_can_be_said():
    lengths = np.arange(10.0)
    ids, place = tuple(map(str, range(10))), np.arange(10)
    assert controlled(Wins(ids, place, np.ones(10), lengths)) is None, "always won"
    assert controlled(Wins(ids, place, (lengths > 4.5) * 1.0, lengths)) is None, "length explains everything"
    assert controlled(Wins(ids, place, (lengths > 4.5) * 1.0, lengths * 0)) is None, "no length differs"


def test_lengths_that_explain_one_side_only_say_nothing_either():
    """Shorter replies always lose, and longer ones win half: the likeliest weight of length has no end."""
    longer, place = np.repeat([-10.0, 10.0], 10), np.arange(20)
    won = np.r_[np.zeros(10), np.tile([1.0, 0.0], 5)]
    assert controlled(Wins(tuple(map(str, place)), place, won, longer)) is None
    longer = np.r_[np.full(5, 50.0), np.arange(60.0, 110, 10)]
    won = np.array([0, 0, 0, 1, 0, 1, 1, 1, 1, 1.0])
    assert controlled(Wins(tuple(map(str, place[:10])), place[:10], won, longer)) is None
