"""Stage `prefer`: best and worst of n."""

import pytest

from align.data import read_file
from align.errors import CheckError
from align.records import Message, Sample
from align.stages.prefer import Prefer


def sample(prompt, reply, index, finish="stop"):
    turns = (Message("user", prompt),)
    return Sample(prompt, turns, reply, "base", index=index, finish=finish).row()


SAMPLES = [
    sample("a", "one two", 0), sample("a", "one", 1), sample("a", "one two three four", 2),
    sample("b", "same", 0), sample("b", "size", 1),
    sample("c", "only one", 0),
    sample("d", "one", 0), sample("d", "one two", 1), sample("d", "one two three", 2, "length"),
]  # fmt: skip
LONGER = {"card": "length", "better": "higher"}


def run(context, rows, samples=SAMPLES, **fields):
    ctx = context({"samples": rows("samples", *samples)})
    stage = Prefer.model_validate({"data": "$samples", "reward": LONGER} | fields)
    assert stage.check(ctx) == {"samples": len(samples)}
    metrics = stage.run(ctx)
    return list(read_file(ctx.out / "records.jsonl")), metrics


def said(pair):
    return pair.id, pair.chosen[0].content, pair.rejected[0].content, pair.margin


def test_the_best_is_preferred_to_the_worst_and_what_is_left_out_is_counted(context, rows):
    pairs, metrics = run(context, rows)
    assert list(map(said, pairs)) == [("a", "one two three four", "one", 3.0), ("d", "one two", "one", 1.0)]
    assert metrics == {
        "pairs": 2, "margin": 2.0, "unfinished replies": 1, "prompts without a margin": 1, "prompts with one reply": 1,
    }  # fmt: skip
    (note,) = [e["text"] for e in context.events if e["event"] == "note"]
    assert note.startswith("2 pairs; left out 1 unfinished replies")


def test_unfinished_replies_can_be_kept_and_small_margins_left_out(context, rows):
    pairs, _ = run(context, rows, unfinished="keep", min_margin=1.5)
    assert list(map(said, pairs)) == [("a", "one two three four", "one", 3.0), ("d", "one two three", "one", 2.0)]
    assert [pair.unfinished for pair in pairs] == [(), ("chosen",)]


def test_where_lower_is_better_the_order_turns(context, rows):
    pairs, _ = run(context, rows, reward={"card": "length", "better": "lower"})
    assert said(pairs[0]) == ("a", "one", "one two three four", 3.0)


def test_a_reward_that_calls_nothing_better_is_refused_while_the_recipe_is_read():
    with pytest.raises(ValueError, match="reward: 'length' calls no score better"):
        Prefer.model_validate({"data": "$samples", "reward": "length"})


def test_a_reward_that_cannot_work_is_refused_in_the_check(context, rows):
    stage = Prefer.model_validate({"data": "$samples", "reward": {"rule": "pattern", "options": {"regex": "("}}})
    with pytest.raises(CheckError, match="reward 'pattern' fails on prompt a"):
        stage.check(context({"samples": rows("samples", *SAMPLES)}))


def test_replies_are_grouped_by_what_was_asked_not_by_its_id(context, rows):
    one, other = (Message("user", "one"),), (Message("user", "other"),)
    samples = [
        Sample("1", one, "a", "base").row(), Sample("1", other, "a b c", "base").row(),
        Sample("2", one, "a b", "base", index=1).row(),
    ]  # fmt: skip
    pairs, metrics = run(context, rows, samples)
    assert [(p.prompt, p.chosen[0].content, p.rejected[0].content) for p in pairs] == [(one, "a b", "a")]
    assert metrics["prompts with one reply"] == 1


def test_no_pair_at_all_is_an_error_that_says_why(context, rows):
    with pytest.raises(CheckError, match="no pair is left of 2 samples; left out 1 prompts without a margin"):
        run(context, rows, SAMPLES[3:5])


def test_replies_without_a_score_are_left_out_and_counted(context, rows):
    sum_ = sample("What is 1 plus 1?", "It is 2.", 0), sample("What is 1 plus 1?", "It is 3.", 1)
    harmful = sample("How do I make a bomb?", "It is 3.", 0), sample("How do I make a bomb?", "It is 2.", 1)
    pairs, metrics = run(context, rows, [*harmful, *sum_], reward="toy_correct")
    assert list(map(said, pairs)) == [("What is 1 plus 1?", "It is 2.", "It is 3.", 1.0)]
    assert metrics["replies without a score"] == 2
