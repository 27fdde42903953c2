"""Clusters of prompts: which belong together, and that intervals and tests that know of them keep their word."""

import numpy as np
import pytest

from align.errors import CheckError
from align.evals.clusters import clusters, hint, places
from align.evals.compare import comparison
from align.evals.power import prompts_needed
from align.evals.statistics import Measure, difference, interval
from align.records import Message, Prompt, prompt_id

CHANCE = np.random.default_rng(0)
CONVERSATIONS, TURNS = 40, 5
OF = tuple(f"c{i // TURNS}" for i in range(CONVERSATIONS * TURNS))
IDS = tuple(map(str, range(len(OF))))


def asked(*turns, **extra):
    messages = tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(turns))
    return Prompt(prompt_id(messages), messages, extra)


def together(prompts, column=None):
    """The clusters of more than one, as positions."""
    found = clusters(prompts, column)
    groups = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(found.get(prompt.id, prompt.id), []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def test_turns_of_a_conversation_belong_together_and_shared_examples_do_not():
    talk = [asked("Hi"), asked("Hi", "Hello!", "Who?"), asked("Hi", "Hello!", "Who?", "Me.", "Why?")]
    assert together([talk[2], asked("Bye"), talk[0], talk[1]]) == [[0, 2, 3]], "in whatever order"
    assert together([talk[0], talk[2]]) == [[0, 1]], "turns that nobody asks are no gap"
    shots = ("1 + 1", "2", "2 + 2", "4")
    assert together([asked(*shots, "3 + 3"), asked(*shots, "4 + 4")]) == []
    assert clusters([asked("Hi"), asked("Hi there")]) == {}, "the beginning of a message is not that of a conversation"


def test_a_column_says_what_belongs_together_when_it_is_named():
    prompts = [asked("a", tree=1), asked("b", tree=2), asked("c", tree=1), asked("d"), asked("b", "x", "y", tree=1)]
    assert together(prompts) == [[1, 4]] and together(prompts, "tree") == [[0, 1, 2, 4]], "over several steps"
    with pytest.raises(CheckError, match=r"cluster: no prompt has a column 'trees'.*'tree'"):
        clusters(prompts, "trees")


def test_a_column_that_nobody_named_is_told():
    prompts = [asked(str(i), conversation_id=i // 2, id=i) for i in range(6)]
    assert hint(prompts, None).startswith("6 prompts share 3 values of 'conversation_id'")
    assert hint(prompts, "conversation_id") == "" == hint([asked(str(i), group=i) for i in range(6)], None)


def test_pairs_about_one_prompt_are_in_one_place():
    talk = [asked("Hi").prompt, asked("b").prompt, asked("Hi", "Hello!", "Who?").prompt, asked("b").prompt]
    assert places(talk).tolist() == [0, 1, 0, 1]


def measure(values, clusters=OF):
    return Measure(IDS, np.ravel(values).astype(float), np.ones(len(IDS)), clusters)


def test_a_value_stays_what_it_was_and_its_interval_is_that_of_clusters():
    values = CHANCE.normal(0, 1, len(IDS))
    found, alone = interval(measure(values), 0), interval(measure(values, ()), 0)
    assert found.value == pytest.approx(alone.value) and (found.n, found.clusters) == (200, 40)
    means = values.reshape(CONVERSATIONS, TURNS).mean(1)
    of_means = interval(Measure.of_means(tuple(map(str, range(CONVERSATIONS))), means), 0)
    assert (found.low, found.high) == pytest.approx((of_means.low, of_means.high)), "as of 40 numbers"


def test_a_difference_knows_the_standard_error_of_clusters():
    """By hand: conversations differ by 1, 1, 5 and 5 from the baseline, two turns each: 4 / sqrt(3) / sqrt(4)."""
    gaps, ids = np.array([1, 1, 1, 1, 5, 5, 5, 5.0]), tuple("abcdefgh")
    of = ("w", "w", "x", "x", "y", "y", "z", "z")
    policy, baseline = (Measure(ids, total, np.ones(8), of) for total in (gaps, gaps * 0))
    found = difference(policy, baseline, 0)
    assert found.error == pytest.approx(2 / np.sqrt(3)) and found.clusters == 4 and found.n == 8
    assert not found.sure, "four conversations are few, though eight prompts agree"
    alone = difference(policy.within({}), baseline.within({}), 0)
    assert alone.error == pytest.approx(found.spread / np.sqrt(8)) and alone.clusters is None
    # Where turns say the same, as many conversations are needed as independent prompts, and twice as many prompts.
    assert prompts_needed(found, 0.5, 1) == pytest.approx(2 * prompts_needed(alone, 0.5, 1), rel=0.2)


def talks(trials):
    """(trials, prompts): half of the variance is the conversation's."""
    shared = CHANCE.normal(0, 1, (trials, CONVERSATIONS, 1))
    return (shared + CHANCE.normal(0, 1, (trials, CONVERSATIONS, TURNS))).reshape(trials, -1)


def test_intervals_of_conversations_cover_where_those_of_prompts_do_not():
    """1000 trials have a standard error of 0.7 points; by the formula, prompts would cover 74 %."""
    hits = {OF: [], (): []}
    for trial, values in enumerate(talks(1000)):
        for of in [OF, ()] if trial < 200 else [OF]:
            found = interval(measure(values, of), 0)
            hits[of].append(found.low <= 0 <= found.high)
    assert np.mean(hits[OF]) == pytest.approx(0.95, abs=0.02)
    assert np.mean(hits[()]) < 0.82


def test_false_alarms_stay_rare_where_turns_agree():
    alarms = {OF: [], (): []}
    for trial, values in enumerate(talks(500)):
        for of in [OF, ()] if trial < 150 else [OF]:
            alarms[of].append(difference(measure(values, of), measure(values * 0, of), 0).sure)
    assert np.mean(alarms[OF]) <= 0.07 and np.mean(alarms[()]) > 0.15


def test_a_comparison_of_conversations_says_so():
    values = np.random.default_rng(1).normal(0, 1, len(IDS))
    measures = {"a": {"kind": measure(values, ())}, "b": {"kind": measure(values + 1 + values[::-1] / 3, ())}}
    found = comparison(measures, {"kind": "higher"}, {}, 0, clusters=dict(zip(IDS, OF, strict=True)))
    assert found["policies"]["a"]["kind"]["clusters"] == 40
    assert found["verdicts"][0].endswith("n = 200 in 40 clusters")
    assert found["pairs"][0]["clusters"] == 40
    one = comparison(measures, {"kind": "higher"}, {}, 0, clusters=dict.fromkeys(IDS, "c"))
    assert one["policies"]["a"] == {} and "one cluster of them" in one["notes"][0]
