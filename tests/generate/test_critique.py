"""Critique and revision, and trap 29: what the critique said must not get into what is imitated."""

import pytest

from align.config import Sampling
from align.constitution import Principle
from align.generate.critique import Reviser, degenerate, fault, leaks
from align.generate.scripted import ScriptedGenerator
from align.records import Message, Prompt

HARM = Principle(name="harm", critique="What is harmful in the last reply of all?", revision="Write it without harm.")
TONE = Principle(name="tone", critique="What is rude?", revision="Write it kindly.")
BEFORE = "You need a knife. Ugh!"


@pytest.mark.parametrize(
    "revision",
    [
        "Critique: the reply is harmful.", "Revision: I can't help.", "The assistant's last response was harmful.",
        "My previous reply helped with a crime, so I take it back.", "Here is a revised version: I can't help.",
        "RevisionRequest: please", "As the critique says, this is wrong.", "A rewritten response: no.",
        "Well, what is harmful in the last reply? I cannot help.", "It tells the user how to get a knife.",
    ],
)  # fmt: skip
def test_a_revision_that_speaks_of_its_critique_leaks(revision):
    assert leaks(revision, BEFORE, ("It tells the user how to get a knife.", HARM.critique, HARM.revision))


@pytest.mark.parametrize(
    "revision",
    [
        "I can't help with that.", "You need a knife for bread.", "Your response to stress is normal.",
        "Critical thinking helps; revise your essay twice.", "The assistant's manual is in the drawer.", BEFORE,
    ],
)  # fmt: skip
def test_a_plain_answer_does_not(revision):
    assert not leaks(revision, BEFORE, ("It tells the user how to get a knife.", HARM.critique, HARM.revision))


def test_what_the_first_reply_said_itself_is_no_leak():
    review = "The revised version of the contract is attached."
    assert leaks(review, "", ()) and not leaks(review + " Regards.", review, (review,))


def test_degenerate_replies():
    assert degenerate("!!! ...") and degenerate("no no no no no no no no")
    assert not degenerate("no") and not degenerate("I can not help with that. Is there anything else?")


def row(reply, finish="stop", critique="Yes, it is harmful."):
    last = {"principle": "harm", "critique": critique, "critique_finish": "stop", "reply": reply, "finish": finish}
    return {"initial": {"reply": BEFORE, "finish": "stop"}, "revisions": [last]}


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (row("I can't."), None), (row("I can", "length"), "truncated"), (row("", "refused"), "refused"),
        (row(" "), "empty"), (row("Critique: bad"), "leaking"), (row("a a a a a a a"), "degenerate"),
        (row(BEFORE + " "), "identical"),
    ],
)  # fmt: skip
def test_the_first_fault_counts(made, why):
    assert fault(made, {"harm": HARM}.__getitem__) == why


def test_each_round_begins_with_the_last_revision():
    heard = []

    def script(turns, index):
        heard.append([turn.content for turn in turns])
        return f"said {len(heard)}"

    examples = (Message("user", "E1"), Message("assistant", "E2"))
    writer = ScriptedGenerator(script)
    reviser = Reviser(writer, writer, (HARM, TONE), 2, Sampling(), examples, 0, lambda done, total: None)
    (made,) = reviser([Prompt("p", (Message("user", "Hi"),))])
    first, second = ({"harm": HARM, "tone": TONE}[turn["principle"]] for turn in made["revisions"])
    assert {first.name, second.name} == {"harm", "tone"}, "another principle while there are some"
    assert heard == [
        ["Hi"],
        ["E1", "E2", "Hi", "said 1", first.critique],
        ["E1", "E2", "Hi", "said 1", first.critique, "said 2", first.revision],
        ["E1", "E2", "Hi", "said 3", second.critique],
        ["E1", "E2", "Hi", "said 3", second.critique, "said 4", second.revision],
    ]
    assert made["initial"] == {"reply": "said 1", "finish": "stop"}
    assert [turn["reply"] for turn in made["revisions"]] == ["said 3", "said 5"]


def test_principles_belong_to_prompts_whatever_stands_beside_them():
    writer = ScriptedGenerator(lambda turns, index: "x")
    reviser = Reviser(writer, writer, (HARM, TONE), 1, Sampling(), (), 3, lambda done, total: None)
    prompts = [Prompt(str(i), (Message("user", f"Question {i}"),)) for i in range(20)]
    together = [made["revisions"][0]["principle"] for made in reviser(prompts)]
    alone = [reviser([prompt])[0]["revisions"][0]["principle"] for prompt in prompts]
    assert together == alone and set(alone) == {"harm", "tone"}
