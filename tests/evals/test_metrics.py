"""Metrics of replies, by hand."""

from dataclasses import replace

import pytest

from align.errors import CheckError
from align.evals.metrics import (
    descriptions,
    distinct,
    pass_at,
    per_count,
    per_prompt,
    scores,
    self_repetition,
    truncated,
)
from align.records import Message, Sample, prompt_id


def asked(text):
    return (Message("user", text),)


def sample(text, reply, index=0, finish="stop", tokens=1):
    return Sample("id", asked(text), reply, "me", index=index, finish=finish, tokens=tokens)


SAMPLES = [
    sample("a", "the cat sat", 0, tokens=4),
    sample("a", "the cat ran off", 1, "length", tokens=6),
    sample("b", "the dog", 0, tokens=2),
    sample("b", "", 1, tokens=1),
]


def test_replies_are_averaged_within_their_prompt_first():
    measure = per_prompt(SAMPLES[:3], [1.0, 3.0, 8.0])
    assert measure.ids == (prompt_id(asked("a")), prompt_id(asked("b"))), "what was asked counts, not its id"
    assert measure.by_prompt.tolist() == [2.0, 8.0]
    assert measure.value == 5.0, "not 4, the mean of all three"


def test_tokens_are_averaged_over_all_of_them():
    measure = per_count(SAMPLES, [2.0, 3.0, 4.0, 0.0], [4, 6, 2, 1])
    assert measure.value == pytest.approx(9 / 13)
    assert measure.by_prompt.tolist() == pytest.approx([5 / 10, 4 / 3])


def test_distinct_counts_each_ngram_once_over_all_replies():
    assert distinct(SAMPLES, n=1).value == pytest.approx(6 / 9)  # the cat sat ran off dog
    assert distinct(SAMPLES, n=2).value == pytest.approx(5 / 6)  # the-cat twice
    same = [sample(str(i), "so it goes") for i in range(10)]
    assert distinct(same, n=2).value == pytest.approx(0.1), "one reply to all prompts"


def test_descriptions():
    found = {name: measure.value for name, measure in descriptions(SAMPLES).items()}
    expected = {"tokens": (5 + 1.5) / 2, "words": (3.5 + 1) / 2, "stop": (0.5 + 1) / 2}
    assert found == pytest.approx(expected | {"distinct-1": 6 / 9, "distinct-2": 5 / 6})


def test_a_reward_counts_where_it_has_something_to_say():
    rows = [({"kind": 1.0, "right": 0.0}, "a"), ({"kind": 0.0}, "b"), ({"kind": 0.5, "right": 1.0}, "c")]
    found = scores([replace(sample(id, "so"), scores=given) for given, id in rows], ["right", "kind", "silent"])
    assert list(found) == ["right", "kind"]
    assert (len(found["right"].ids), found["right"].value) == (2, 0.5)
    assert found["kind"].value == 0.5


def test_what_was_not_counted_is_not_measured():
    """A server or a file that tells no tokens: 0 of a reply that has words. An empty reply may have none."""
    uncounted = [replace(row, tokens=0) for row in SAMPLES]
    assert descriptions(uncounted).keys() == {"words", "distinct-1", "distinct-2"} and truncated(uncounted) is None
    assert truncated([*SAMPLES[:3], replace(SAMPLES[3], tokens=0)]).by_prompt.tolist() == [0.5, 0.0]


def test_phrases_said_to_several_prompts():
    """`i am glad to` is said to a and to b; what is repeated within one prompt, or is shorter, is nobody's habit."""
    rows = [
        ("a", "I am glad to help"), ("a", "one two three four"), ("b", "well i am glad to say"),
        ("c", "one two three"), ("d", "one two three four"),
    ]  # fmt: skip
    samples = [sample(asked_, reply) for asked_, reply in rows]
    assert self_repetition(samples[:4]).by_prompt.tolist() == [0.5, 1, 0]
    assert self_repetition(samples).by_prompt.tolist() == [1, 1, 0, 1]
    assert self_repetition(samples, n=3).by_prompt.tolist() == [1, 1, 1, 1]


def test_pass_at_k_by_hand():
    """1 of 4 right: 1 - C(3, 2) / C(4, 2) = 0.5; 0 of 4; 3 of 4: 1."""
    rows = [sample(name, "x", i) for name in "abc" for i in range(4)]
    right = [1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1]
    made = [replace(row, scores={"right": float(score)}) for row, score in zip(rows, right, strict=True)]
    assert pass_at(made, reward="right", k=2).by_prompt.tolist() == pytest.approx([0.5, 0, 1])
    assert pass_at(made, reward="other", k=2) is None
    with pytest.raises(CheckError, match="k is 5, and a prompt has 4 replies"):
        pass_at(made, reward="right", k=5)
    with pytest.raises(CheckError, match="'right' has scores other than 0 and 1"):
        pass_at([replace(made[0], scores={"right": 0.5}), *made[1:]], reward="right", k=2)
