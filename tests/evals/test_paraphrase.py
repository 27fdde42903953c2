"""Paraphrases by a generator: what is kept, what is left out and counted, and that each is asked for once."""

from __future__ import annotations

import pytest

from align.config import Model
from align.evals import paraphrase
from align.evals.paraphrase import Paraphrase, paraphrased, told
from align.machine import Machine
from align.records import Message, Prompt, prompt_id
from align.stage import Context
from align.store import Store
from tests.generate.servers import saying, serving

WORDINGS = {
    "What is the sea?": "  The sea, what is it?\n",
    "Why is the sky blue?": "why is the sky... BLUE",
    "Who are you?": "",
    "How far is the moon?": "How many miles to the m",
    "Is it late?": "It is an interesting question whether it is late, because" + " lateness is relative" * 4,
    "Is it too late now?": "The sea, what is it?",
    "Where is it?": "nothing",
}


def prompt(*turns):
    messages = tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(turns))
    return Prompt(prompt_id(messages), messages, {"answer": "1"})


def reply(body):
    request, _, asked = body["messages"][-1]["content"].partition("\n\n")
    assert request.endswith("Write nothing but the new wording.") and body["temperature"] == 0
    finish = {"How far is the moon?": "length", "Where is it?": "content_filter"}.get(asked, "stop")
    return saying(WORDINGS[asked], finish)


def context(tmp_path, source, keys=None):
    return Context(
        stage="it", type="compare", key="", seed=0, inputs={"writer": source}, keys=keys or {},
        store=Store(tmp_path / "runs"), machine=Machine(), work=tmp_path, out=tmp_path, base=tmp_path,
    )  # fmt: skip


def test_what_is_no_rewording_is_left_out_and_counted(tmp_path):
    prompts = [*map(prompt, WORDINGS), prompt("Hi", "Hello!", "What is the sea?")]
    with serving(reply) as server:
        spec = Paraphrase.model_validate({"paraphrase": "$writer"})
        pairs, left_out = paraphrased(context(tmp_path, server.endpoint()), spec, prompts, seed=0)
        assert paraphrased(context(tmp_path, server.endpoint()), spec, prompts, seed=0) == (pairs, left_out)
    asked = len(server.bodies)
    assert asked == len(WORDINGS), "an answer is kept, also for the second prompt that ends with the same words"
    assert [(old.prompt[-1].content, new.prompt[-1].content) for old, new in pairs] == [
        ("What is the sea?", "The sea, what is it?")
    ] * 2
    assert [turn.content for turn in pairs[1][1].prompt] == ["Hi", "Hello!", "The sea, what is it?"]
    assert pairs[0][1].extra == {"answer": "1"} and pairs[0][1].id == prompts[0].id
    assert left_out == {
        "unchanged": 1, "empty": 1, "cut at the token limit": 1, "more than 2 times as long": 1, "equal to another": 1,
        "refused": 1,
    }  # fmt: skip
    assert told("other words", left_out, 8).startswith("other words: 6 of 8 rewordings are left out: 1 unchanged, ")
    assert told("other words", left_out - left_out, 8) == ""


def test_a_model_that_a_key_names_is_asked_once(tmp_path, monkeypatch):
    class Writer:
        asked = 0

        def generate(self, prompts, sampling, seed, progress=None):
            from align.generate.base import Completion

            self.asked += len(prompts)
            return [Completion(i, 0, f"wording {i}", (), (), "stop") for i in range(len(prompts))]

    writer, prompts = Writer(), [prompt("one"), prompt("two")]
    monkeypatch.setattr("align.generate.load.load_generator", lambda ctx, reference: writer)
    monkeypatch.setattr("align.evals.fitting.readers", lambda ctx, policies, rewards: [])
    spec = Paraphrase.model_validate({"paraphrase": "$writer"})
    ctx = context(tmp_path, Model(path="a/writer"), {"writer": "k"})
    for _ in range(2):
        pairs, _ = paraphrased(ctx, spec, prompts, seed=0)
        assert [new.prompt[-1].content for _, new in pairs] == ["wording 0", "wording 1"]
    assert writer.asked == 2
    paraphrased(ctx, spec.model_copy(update={"request": "Shorter:"}), prompts, seed=0)
    assert writer.asked == 4, "another request is another question"


def test_one_rewording_each():
    with pytest.raises(ValueError, match="put in other words once; n is 3"):
        Paraphrase.model_validate({"paraphrase": "$writer", "sampling": {"n": 3}})
    assert paraphrase.VERSION == 2
