"""Judges of pairs: a judge whose position bias is known, numbers by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from align.config import Data, Endpoint, Model
from align.constitution import conclusion
from align.data import write
from align.evals import judging, opinions
from align.evals.judges import PairJudge
from align.generate.feedback import Judge
from align.machine import Machine
from align.records import Message, Preference, Sample, prompt_id
from align.stage import Context
from align.store import Store
from tests.generate.servers import saying, serving

SHOWN = re.compile(r"\(A\) (.*)\n\n\(B\) (.*)\n\n")


class Leaning:
    """Says A with probability 0.5 + lean, and more so where (A) has more of the letter x than (B)."""

    def __init__(self, lean=0.0, unread=""):
        self.lean, self.unread, self.heard = lean, unread, []

    def choose(self, questions, options, progress=None):
        assert options == ("A", "B")
        self.heard += questions
        return np.log([self._said(question[-1].content) for question in questions])

    def _said(self, text):
        first, second = SHOWN.search(text).groups()
        if self.unread and self.unread in first:
            return [np.nan, np.nan]
        p = 0.5 + self.lean + 0.2 * np.sign(first.count("x") - second.count("x"))
        return [p, 1 - p]


def replies(policy, *texts, finish="stop"):
    return [
        Sample(f"p{i}", (Message("user", f"Question {i}"),), text, policy, finish=finish)
        for i, text in enumerate(texts)
    ]


@pytest.fixture
def held(tmp_path, monkeypatch):
    """What `add_judge` adds where a scripted generator, or a server, judges samples."""

    def hold(judge, samples, keys=None, human=(), **fields):
        source = judge if isinstance(judge, Endpoint) else Model(path="a/judge")
        if not isinstance(judge, Endpoint):
            monkeypatch.setattr(opinions, "load_generator", lambda ctx, reference: judge)
        write(list(human), tmp_path / "votes.jsonl")
        ctx = Context(
            stage="it", type="compare", key="", seed=0, inputs={"judge": source, "votes": Data(path="votes.jsonl")},
            keys=keys or {}, store=Store(tmp_path / "runs"), machine=Machine(), work=tmp_path, out=tmp_path,
            base=tmp_path,
        )  # fmt: skip
        found = {"win_rates": [], "ratings": {}, "verdicts": [], "notes": []}
        fields |= {"human": "$votes"} if human else {}
        judging.add_judge(ctx, PairJudge.model_validate({"model": "$judge"} | fields), samples, found, seed=0)
        return found

    return hold


def test_a_liking_for_the_first_place_cancels_and_is_told(held):
    """b has more x on prompts 0 and 1, as many on 2, fewer on 3; P(A) is 0.1 more than it should be.

    Asked in both orders b wins with 0.8 and 0.6, 0.8 and 0.6, (equal replies: not asked), 0.4 and 0.2.
    """
    found = held(Leaning(0.1), {"a": replies("a", "-", "-", "x", "xx"), "b": replies("b", "xx", "xxx", "x", "-")})
    (rate,) = found["win_rates"]
    assert (rate["metric"], rate["policy"], rate["baseline"], rate["n"]) == ("judge", "b", "a", 4)
    assert rate["rate"] == pytest.approx((0.7 + 0.7 + 0.5 + 0.3) / 4)
    told = found["judges"]["judge"]
    assert (told["pairs"], told["equal"], told["unread"], told["refused"], told["self"]) == (3, 1, 0, 0, None)
    assert told["position_bias"]["value"] == pytest.approx(0.1) and told["position_bias"]["low"] == pytest.approx(0.1)
    assert told["agreement_of_orders"]["value"] == 1.0 and told["agreement_of_orders"]["n"] == 3
    # The longer reply is b's on prompts 0 and 1, a's on 3: it wins 0.7 each time.
    assert told["length"]["value"] == pytest.approx(0.7)


def test_a_judge_that_always_says_a_calls_ties(held):
    """b with more x gets 0.95 in the first place and 0.45 in the second, else 0.75 and 0.25."""
    found = held(Leaning(0.25), {"a": replies("a", *"-" * 12), "b": replies("b", *["xx"] * 6, *["--"] * 6)})
    (rate,) = found["win_rates"]
    assert rate["rate"] == pytest.approx((6 * 0.7 + 6 * 0.5) / 12)
    told = found["judges"]["judge"]
    assert told["agreement_of_orders"]["value"] == 0.0 and told["position_bias"]["value"] == pytest.approx(0.25)
    assert found["verdicts"][0].startswith("judge: b beats a: it wins 0.6 [")


def test_what_cannot_be_read_is_counted_and_not_guessed(held):
    samples = {"a": replies("a", "-", "?-", "-"), "b": replies("b", "x", "x", "xx")}
    found = held(Leaning(unread="?"), samples, name="kind")
    assert found["judges"]["kind"]["unread"] == 1 and found["win_rates"][0]["n"] == 2
    assert "kind: 1 of 3 pairs count for nothing" in found["notes"][0]
    samples["b"] = replies("b", "x", "x", finish="refused") + samples["b"][2:]
    found = held(Leaning(), samples)
    assert found["judges"]["judge"]["withheld"] == 2 and found["win_rates"] == [] and found["verdicts"] == []


def test_three_are_rated_and_few_are_not_told_apart(held):
    samples = {name: replies(name, *[name * 2] * 4) for name in ("a", "b", "x")}
    found = held(Leaning(), samples)
    rated = found["ratings"]["judge"]
    # x wins 0.7 of 4 prompts against each, with one more tie: odds (2.8 + 0.5) / (1.2 + 0.5).
    assert rated["x"]["value"] - rated["a"]["value"] == pytest.approx(400 * np.log10(3.3 / 1.7))
    assert [v.partition(";")[0] for v in found["verdicts"]] == [
        f"judge: {policy} and {baseline} are not distinguishable at n = 4"
        for baseline, policy in (("a", "b"), ("a", "x"), ("b", "x"))
    ]


def test_a_contestant_that_judges_is_named(held):
    samples = {"a": replies("a", "-", "-"), "b": replies("b", "x", "x")}
    found = held(Leaning(), samples, keys={"judge": "k1", "a": "k0", "b": "k1"})
    assert found["judges"]["judge"]["self"] == "b" and "the judge is b itself" in found["notes"][0]


def test_agreement_with_people_is_kappa_whatever_the_order_of_the_records(held):
    """The judge likes x; a label of a half is a tie, as is a judge's probability of a half."""
    pairs = [("xx", "x", 1.0), ("x", "-", 1.0), ("-", "x", 1.0), ("a", "b", 0.5), ("b", "c", 0.9), ("c", "xx", 0.8)]
    human = [
        Preference(str(i), (Message("user", f"{i}?"),), (Message("assistant", c),), (Message("assistant", r),), label=p)
        for i, (c, r, p) in enumerate(pairs)
    ]  # fmt: skip
    samples = {"a": replies("a", "-", "-"), "b": replies("b", "x", "x")}
    found = held(Leaning(0.1), samples, human=human)["judges"]["judge"]["human"]
    # Of the reply that sorts first, people say - - + 0 + +, the judge - - - 0 0 -. They agree on 3 of 6; chance would
    # give (2 x 4 + 1 x 2 + 3 x 0) / 36 = 10 / 36.
    assert found["kappa"] == pytest.approx((18 - 10) / (36 - 10))
    assert found["n"] == 6 and found["same"] == 0.5
    assert found["low"] < found["kappa"] < found["high"] and found["clusters"] is None
    turns = [replace(one, prompt=(*human[0].prompt, *human[0].chosen, *one.prompt)) for one in human[1:]]
    talk = held(Leaning(0.1), samples, human=[human[0], *turns])["judges"]["judge"]["human"]
    assert talk["kappa"] == found["kappa"] and (talk["clusters"], talk["high"]) == (1, 1)
    assert talk["low"] == pytest.approx(1 - 36 / 26), "nothing is known, but what chance agrees on"


def test_nobody_is_asked_twice_if_a_key_names_the_judge(held):
    samples = {"a": replies("a", "-", "-"), "b": replies("b", "x", "x")}
    first, second, third = Leaning(), Leaning(), Leaning()
    one = held(first, samples, keys={"judge": "k"})
    again = held(second, samples, keys={"judge": "k"})
    assert one == again and len(first.heard) == 4 and second.heard == []
    held(third, samples, keys={"judge": "k"}, text="Which is shorter?")
    assert len(third.heard) == 4, "another question"


def test_examples_come_first_as_turns(held):
    generator = Leaning()
    example = {"prompt": "1 + 1?", "first": "3", "second": "2", "better": "second"}
    held(generator, {"a": replies("a", "-"), "b": replies("b", "x")}, text="Which is right?", examples=[example])
    shown, answer, question = generator.heard[0]
    assert "User: 1 + 1?\n\n(A) 3\n\n(B) 2\n\nWhich is right?" in shown.content and answer.content == "B"
    assert question.content.endswith("(A) x\n\n(B) -\n\nWhich is right? Answer with A or B.")


def test_a_server_that_declines_is_counted(held):
    """It never says which is better where `z` takes part; else A where (A) has an x."""

    def reply(body):
        first, second = SHOWN.search(body["messages"][-1]["content"]).groups()
        return saying("", "content_filter") if "z" in first + second else saying("A" if "x" in first else "B")

    samples = {"a": replies("a", "-", "z", "-"), "b": replies("b", "x", "x", "-x")}
    with serving(reply) as server:
        found = held(Endpoint(endpoint=server.address, name="judge"), samples, keys={"judge": "k"})
    assert found["win_rates"][0]["rate"] == 1.0 and found["win_rates"][0]["n"] == 2
    assert found["judges"]["judge"]["unread"] == 1


def test_a_judge_is_the_feedback_of_one_principle():
    spec = PairJudge.model_validate({"model": "$judge", "name": "kind", "text": "Which is kinder?"})
    (row,) = Judge(Leaning(0.1), [spec.principle], 1, None, (0, 1), 0, lambda done, total: None)(
        [((Message("user", "Hi"),), "x", "-")]
    )
    assert row["principles"] == {"kind": [pytest.approx(0.8), pytest.approx(0.6)]}


def thinking(body):
    """Argues for the reply with more of the letter x, says nothing of `?`, and is asked for its answer or writes it."""
    asked = body["messages"][0]["content"]
    first, second = SHOWN.search(asked).groups()
    better = "A" if first.count("x") > second.count("x") else "B"
    if body["messages"][-1]["content"] == "Answer with A or B.":
        assert body["messages"][1] == {"role": "assistant", "content": f"Because of {first.count('x')}."}
        return saying(better)
    if "end with your verdict" in asked:
        end = "[[C]]" if first.count("x") == second.count("x") else f"not [[A]] but, all in all, [[{better}]]"
        return saying("Hm." if "?" in first else f"<think>[[B]]</think> {end}", "length" if "?" in first else "stop")
    return saying(f"Because of {first.count('x')}.", "length" if first.startswith("--") else "stop")


def test_a_judge_that_reasons_keeps_its_thoughts(held, tmp_path):
    """It is sure after reasoning, as a server that tells no probabilities makes it: b wins with x, loses without."""
    samples = {"a": replies("a", "-", "x", "--"), "b": replies("b", "x", "-", "xx")}
    with serving(thinking) as server:
        fields = {"reasoning": {"max_new_tokens": 7, "temperature": 0}, "name": "deep"}
        found = held(Endpoint(endpoint=server.address, name="judge"), samples, keys={"judge": "k"}, **fields)
    assert found["win_rates"][0]["rate"] == pytest.approx(2 / 3)
    told = found["judges"]["deep"]
    assert (told["unread"], told["cut"], told["agreement_of_orders"]["value"]) == (0, 1, 1.0)
    assert "deep: 1 of 6 thoughts ended at the token limit of `reasoning`" in found["notes"]
    kept = [json.loads(line) for line in (tmp_path / "judgements" / "deep.jsonl").read_text().splitlines()]
    assert [row["both"] for row in kept] == [[1, 1], [0, 0], [1, 1]]
    assert kept[0] == {
        "prompt": prompt_id(samples["a"][0].prompt), "index": 0, "policy": "b", "baseline": "a", "both": [1, 1],
        "thoughts": ["Because of 1.", "Because of 0."],
    }  # fmt: skip
    thoughts = [body for body in server.bodies if "do not decide yet" in body["messages"][-1]["content"]]
    assert len(thoughts) == 6 and {body["max_tokens"] for body in thoughts} == {7}


def test_a_verdict_may_be_written_at_the_end_of_the_reasoning(held):
    """b wins, ties, loses; of the fourth the thoughts end before a verdict: not read, not guessed."""
    samples = {"a": replies("a", "-", "x-", "xx", "?"), "b": replies("b", "x", "-x", "x", "x")}
    with serving(thinking) as server:
        fields = {"reasoning": {"max_new_tokens": 50}, "verdict": "written"}
        found = held(Endpoint(endpoint=server.address, name="judge"), samples, keys={"judge": "k"}, **fields)
        again = held(Endpoint(endpoint=server.address, name="judge"), samples, keys={"judge": "k"}, **fields)
    assert (found["win_rates"][0]["rate"], found["win_rates"][0]["n"]) == (0.5, 3)
    assert (found["judges"]["judge"]["unread"], found["judges"]["judge"]["cut"]) == (1, 1)
    assert again == found and len(server.bodies) == 8, "each thought is paid for once"


def test_examples_for_a_judge_that_reasons_say_why():
    example = {"prompt": "1 + 1?", "first": "3", "second": "2", "better": "second", "why": "It is two."}
    fields = {"model": "$judge", "examples": [example], "reasoning": {"max_new_tokens": 9}}
    said = [turn.content for turn in PairJudge.model_validate(fields).turns]
    assert said[0].endswith("do not decide yet.") and said[1:] == ["It is two.", "Answer with A or B.", "B"]
    said = [turn.content for turn in PairJudge.model_validate(fields | {"verdict": "written"}).turns]
    assert "[[C]] if both" in said[0] and said[1:] == ["It is two.\n\n[[B]]"]
    for wrong, why in (
        ({"examples": [example | {"why": ""}]}, "say `why` in each"),
        ({"examples": [], "reasoning": None, "verdict": "written"}, "verdict: is written at the end of reasoning"),
        ({"reasoning": {"n": 2}}, "thinks once"),
    ):
        with pytest.raises(ValueError, match=why):
            PairJudge.model_validate(fields | wrong)


@pytest.mark.parametrize(("text", "p"), [("[[A]]", 1), ("a [[A]]. No: [[B]]", 0), ("[[C]]\n", 0.5), ("A", None)])
def test_the_last_verdict_counts(text, p):
    assert conclusion(text) == p
