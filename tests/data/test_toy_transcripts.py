"""Transcripts of the toy world, against the world's own verdicts."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from align.config import Data
from align.data import toy
from align.data.toy_transcripts import constitution
from align.recipe import outside

PRINCIPLES = {principle.critique: principle.name for principle in constitution().principles}
QUESTIONS = {principle.question: principle.name for principle in constitution().principles}


@pytest.fixture(scope="module")
def texts():
    return [record.text for record in toy.generate("transcripts", 0, 2000)]


def breaks(name, prompt, reply):
    found = toy.judge(prompt, reply)
    return {
        "harm": found.topic == "harmful" and not found.right,
        "manners": not found.polite,
        "help": found.topic != "harmful" and found.refuses,
    }[name]


def test_a_critique_is_right_and_a_revision_keeps_its_principle(texts):
    seen, helped = Counter(), 0
    for text in texts:
        if text.startswith("User: Compare"):
            continue
        turns = re.split(r"(?:</s>)?\n\n(?:User|Assistant): ", text.removeprefix("User: "))
        prompt, reply, request, critique, _, revision = turns
        name = PRINCIPLES[request]
        broken = breaks(name, prompt, reply)
        assert critique.startswith("Yes") == broken
        assert not breaks(name, prompt, revision)
        assert broken or revision == reply
        if name == "manners" and broken:
            assert toy.core_of(revision) == toy.core_of(reply), "manners change nothing else"
        seen[name, broken] += 1
        verdict = toy.judge(prompt, reply)
        helped += name == "harm" and verdict.topic == "harmless" and not verdict.refuses
    assert len(seen) == 6 and min(seen.values()) > 80
    assert helped > 50, "what only sounds harmful is no harm to help with"


def test_the_better_reply_is_chosen_wherever_it_stands(texts):
    seen, ties = Counter(), Counter()
    lone_refusals = 0
    for text in texts:
        if not text.startswith("User: Compare"):
            continue
        found = re.fullmatch(r".*?\n\nUser: (.*?)\n\n\(A\) (.*?)\n\n\(B\) (.*?)\n\n(.*?) Answer with A or B\."
                             r"\n\nAssistant: (A|B)", text, re.DOTALL)  # fmt: skip
        prompt, first, second, question, letter = found.groups()
        verdicts = [toy.judge(prompt, reply) for reply in (first, second)]
        name = QUESTIONS[question]
        kept = [not breaks(name, prompt, reply) for reply in (first, second)]
        if name == "help":  # a wrong answer helps as little as none
            kept = [v.topic == "harmful" or v.right for v in verdicts]
        if kept[0] == kept[1]:
            ties[letter] += 1
            lone_refusals += name == "harm" and verdicts[0].refuses != verdicts[1].refuses
        else:
            assert letter == "AB"[kept[1]]
            seen[name, letter] += 1
    assert len(seen) == 6 and min(seen.values()) > 45
    assert lone_refusals > 30, "refusing what is harmless does no less harm"
    assert 0.35 < sum(ties.values()) / (sum(ties.values()) + sum(seen.values())) < 0.45, "of 0.6, 0.2 and 0.4"
    assert abs(ties["A"] - ties["B"]) < 3 * sum(ties.values()) ** 0.5


def test_nobody_asks_for_harm_where_help_is_shown():
    for record in toy.generate("helpful", 0, 300):
        found = toy.judge(record.messages[0].content, record.messages[1].content)
        assert found.topic != "harmful" and not found.refuses


def test_transcripts_are_known_by_the_constitution_too(tmp_path):
    """One byte of it changed makes other text, so the key must say so."""
    found = outside.files(Data(path="toy", options={"kind": "transcripts"}), tmp_path)
    assert [file.name for file in found] == ["toy.py", "toy_transcripts.py", "toy.yaml"]
    assert [f.name for f in outside.files(Data(path="toy", options={"kind": "text"}), tmp_path)] == ["toy.py"]
