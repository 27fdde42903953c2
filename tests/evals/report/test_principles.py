"""Which principle shaped a reply: the same words, in what its checkpoint learned from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from align.constitution import find
from align.data import write as write_records
from align.evals.report.material import of_artifact
from align.evals.report.page import write
from align.evals.report.principles import Shaping
from align.records import Demonstration, Message, Preference, Sample
from align.store import Store
from tests.evals.report.conftest import HOSTILE, compared

REFUSAL = "I can't help with that."


def asked(text):
    return (Message("user", text),)


def said(text):
    return (Message("assistant", text),)


def revised(prompt, initial, *steps):
    """steps: (principle, critique, reply)."""
    turns = [
        {"principle": p, "critique": c, "reply": r, "finish": "stop", "critique_finish": "stop"} for p, c, r in steps
    ]
    extra = {"initial": {"reply": initial, "finish": "stop"}, "revisions": turns, "principle": turns[-1]["principle"]}
    return Demonstration(prompt, (*asked(prompt), *said(steps[-1][2])), (1,), extra)


def preferred(prompt, chosen, rejected, principle):
    extra = {"principle": principle, "feedback": {principle: [0.8, 0.9]}}
    return Preference(prompt, asked(prompt), said(chosen), said(rejected), label=0.85, extra=extra)


TRANSCRIPTS = [
    revised("rob?", "Use a mask.", ("harm", "It helps a crime.", REFUSAL), ("manners", "It is kind.", REFUSAL)),
    revised("stab?", "A knife.", ("harm", "It hurts.", REFUSAL)),
    revised("poison?", "No!", ("manners", "It is curt.", REFUSAL)),
    revised("bake?", "Some flour.", ("help", "All is well.", "Some flour.")),
]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """`tuned` learned from revisions, `better` from it and from judged pairs, and was tested on others."""
    store, fields = Store(tmp_path_factory.mktemp("runs")), {"constitution": find("toy").model_dump(mode="json")}

    def commit(stage, kind, type_, inputs, records=(), **fields):
        out = store.workspace(stage) / "out"
        if records:
            write_records(records, out / "records.jsonl")
        if kind == "report":
            replies = {"base": [REFUSAL, REFUSAL, "A cake."], "tuned": [REFUSAL, REFUSAL, "Some flour."],
                       "better": [REFUSAL, REFUSAL, f"Rye. {HOSTILE}"]}  # fmt: skip
            compared(out, {
                name: [Sample(p, asked(p), r, name, tokens=3, scores={"quality": 1.0}) for p, r in zip(
                    ("stab?", "burn?", "bake?"), of, strict=True)]
                for name, of in replies.items()
            })  # fmt: skip
        taken = {field: {"name": name, "key": name} for field, name in inputs.items()}
        manifest = {
            "recipe": "toy", "stage": stage, "type": type_, "fields": fields, "inputs": taken, "seconds": 1.0,
            "finished": "2026-11-24T09:21:25+00:00", "device": "cpu",
        }  # fmt: skip
        return store.commit(stage, kind, {}, manifest)

    commit("revise", "records", "critique_revise", {"policy": "base"}, TRANSCRIPTS, **fields)
    commit("tuned", "policy", "sft", {"policy": "base", "data.0": "revise"})
    pairs = [preferred("bread?", f"Rye. {HOSTILE}", "No.", "help"), preferred("stab?", REFUSAL, "A sword.", "harm")]
    commit("judged", "records", "ai_feedback", {"policy": "tuned"}, pairs, **fields)
    commit("unseen", "records", "ai_feedback", {"policy": "tuned"}, [preferred("x", "A cake.", "y", "help")], **fields)
    commit("reward", "reward", "reward_model", {"policy": "tuned", "data": "judged", "test": "unseen"})
    commit("better", "policy", "ppo", {"policy": "tuned", "reward": "reward", "prompts.0": "unseen"})
    policies = {f"policies.{i}": name for i, name in enumerate(("base", "tuned", "better"))}
    return of_artifact(commit("result", "report", "compare", policies), store)


def lesson(material, policy, number):
    return Shaping(material).of(policy, material.replies[policy][number])


def test_the_last_revision_that_changed_the_reply_shaped_it(material):
    assert lesson(material, "tuned", 0) == {
        "principle": "harm", "stage": "revise", "prompt": None, "count": 2, "of": 3,
        "told": {"reply before": "A knife.", "critique": "It hurts."},
    }  # fmt: skip
    other = lesson(material, "tuned", 1)
    assert (other["principle"], other["prompt"]) == ("harm", "rob?"), "at another prompt, by the principle of most"
    assert lesson(material, "tuned", 2) is None, "no revision changed anything"
    assert lesson(material, "base", 0) is None, "it learned from nothing"


def test_a_judge_s_principle_counts_where_a_policy_learned_from_the_pair(material):
    assert lesson(material, "better", 0) == {
        "principle": "harm", "stage": "judged", "prompt": None, "count": 3, "of": 4,
        "told": {"preferred to": "A sword.", "label": "0.85"},
    }  # fmt: skip
    assert lesson(material, "better", 2)["principle"] == "help"
    assert [stage.name for stage in material.taught("better")] == ["revise", "tuned", "judged", "reward"]


def test_principles_are_listed_with_what_they_ask_and_what_came_of_it(material):
    harm, manners, help_ = Shaping(material).principles()
    assert list(harm["asks"]) == ["Does this reply help to do harm?", "Which reply does less harm?"]
    assert harm["work"] == ["2 revisions in revise", "1 preferences in judged"]
    assert manners["work"] == ["1 revisions in revise"] and help_["work"] == ["1 preferences in judged"]


def test_without_a_constitution_there_are_none(material):
    assert Shaping(replace(material, lineage=None)).principles() == []


@pytest.mark.slow
def test_a_reader_goes_from_a_reply_to_what_its_principle_asks(material, browser, tmp_path):
    write(material, tmp_path / "page.html")
    page, complaints = browser.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto((tmp_path / "page.html").as_uri())
    page.select_option("[name=right]", label="better")
    page.select_option("[name=order]", "asked")
    first, *_, last = page.query_selector_all(".shaped")
    assert (first.inner_text(), last.inner_text()) == ("shaped by harm", "shaped by help")
    for lesson in (first, last):
        lesson.query_selector("summary").click()
    assert "The same words in judged, at this prompt:" in first.inner_text()
    assert "3 of the 4 lessons in these words are by this principle." in first.inner_text()
    first.query_selector("a").click()
    target = page.evaluate("document.querySelector(':target').innerText")
    assert target.split("\n\n")[:2] == ["harm", "Does this reply help to do harm?"]
    assert complaints == []
    page.close()
