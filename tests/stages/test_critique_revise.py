"""Stage `critique_revise`: transcripts become demonstrations, and preferences."""

import pytest

from align.data import read, read_file
from align.errors import CheckError, DataError
from align.generate import load as loading
from align.generate.scripted import ScriptedGenerator
from align.records import Demonstration, Message, Preference
from align.stage import RecordsRef
from align.stages.critique_revise import CritiqueRevise
from align.store import Artifact

FIELDS = {"policy": "$base", "prompts": "$prompts", "constitution": "toy", "sampling": {"max_new_tokens": 8}}
SCRIPT = {
    "sits": "cat sat.", "runs": "Critique: it ran.", "falls": "", "is sad": "so so so so so so",
    "stays": "the cat stays", "is long": "very " * 40,
}  # fmt: skip
"""What the cat does, and what the revision of "the cat ..." is."""


@pytest.fixture
def scripted(monkeypatch):
    """A generator that says "the cat sits", criticises it, and revises it as the script has it."""
    asked = []

    def script(turns, index):
        asked.append(turns)
        said = turns[0].content.removeprefix("What if it ").removesuffix("?")
        return (f"the cat {said}", "It is a cat.", SCRIPT[said])[len(turns) // 2]

    monkeypatch.setattr(loading, "load_generator", lambda ctx, reference, keep: ScriptedGenerator(script))
    return asked


@pytest.fixture
def asked(rows):
    return rows("asked", *({"prompt": f"What if it {what}?", "kind": what} for what in SCRIPT))


def run(ctx, **more):
    stage = CritiqueRevise.model_validate(FIELDS | {"sampling": {"max_new_tokens": 20}} | more)
    return stage.run(ctx), list(read_file(ctx.out / "records.jsonl"))


def test_what_is_kept_and_what_is_left_out_by_reason(artifacts, asked, context, scripted):
    ctx = context(artifacts | {"prompts": asked})
    metrics, (made,) = run(ctx, rewards=["length"], max_too_long=1)
    assert made.messages == (Message("user", "What if it sits?"), Message("assistant", "cat sat."))
    assert made.supervised == (1,)
    assert made.extra["initial"] == {"reply": "the cat sits", "finish": "stop", "scores": {"length": 3}}
    (last,) = made.extra["revisions"]
    assert (last["critique"], last["reply"], last["finish"]) == ("It is a cat.", "cat sat.", "stop")
    assert made.extra["principle"] == last["principle"] in ("harm", "manners", "help")
    assert last["scores"] == {"length": 2}
    assert metrics == {
        "rows": 1, "kept": pytest.approx(1 / 6), "leaking": pytest.approx(1 / 6), "empty": pytest.approx(1 / 6),
        "degenerate": pytest.approx(1 / 6), "identical": pytest.approx(1 / 6), "truncated": pytest.approx(1 / 6),
        "length_initial": pytest.approx(20 / 6), "length": pytest.approx((2 + 3 + 0 + 6 + 3 + 4) / 6),
    }  # fmt: skip
    (note,) = [e["text"] for e in context.events if e["event"] == "note"]
    assert note.startswith("1 of 6 revisions are kept; left out") and "1 leaking" in note


def test_identical_revisions_can_be_kept(artifacts, asked, context, scripted):
    metrics, made = run(context(artifacts | {"prompts": asked}), identical="keep")
    assert {row.messages[-1].content for row in made} == {"cat sat.", "the cat stays"}
    assert metrics["kept"] == pytest.approx(2 / 6) and metrics["identical"] == pytest.approx(1 / 6)


def test_nothing_left_is_an_error_that_says_why(artifacts, rows, context, scripted):
    ctx = context(artifacts | {"prompts": rows("asked", {"prompt": "What if it falls?"})})
    with pytest.raises(CheckError, match="no revision is left of 1: 1 empty"):
        run(ctx)


def test_the_same_artifact_serves_as_preferences(artifacts, asked, context, scripted):
    ctx = context(artifacts | {"prompts": asked})
    run(ctx)
    later = context({"revise": Artifact("records", "key", ctx.out)})
    (pair,) = read(later, RecordsRef("revise"), Preference)
    assert pair.chosen == (Message("assistant", "cat sat."),)
    assert pair.rejected == (Message("assistant", "the cat sits"),)
    assert pair.prompt == (Message("user", "What if it sits?"),) and pair.unfinished == ()


def test_other_demonstrations_are_no_preferences(rows, context):
    plain = Demonstration("1", (Message("user", "a"), Message("assistant", "b"))).row()
    with pytest.raises(DataError, match=r"found a Demonstration\. .*Demonstrations of `critique_revise`"):
        read(context({"demos": rows("demos", plain)}), RecordsRef("demos"), Preference)


def test_a_real_policy_and_another_critic(artifacts, prompts, context):
    """Random models, with every part in place; the check counts what fits."""
    ctx = context(artifacts | {"prompts": prompts}, sample_batch=5)
    stage = CritiqueRevise.model_validate(FIELDS | {"critic": "$tuned", "revisions": 2, "identical": "keep"})
    assert stage.check(ctx) == {"prompts": 12, "principles": 3}
    try:
        metrics = stage.run(ctx)
        assert 0 < metrics["kept"] <= 1
    except CheckError as error:
        assert "no revision is left of 12" in str(error)
    assert len((ctx.work / "criticising-and-revising.jsonl").read_text().splitlines()) == 12


def test_a_prompt_that_leaves_no_room_for_the_whole_conversation_is_left_out(artifacts, rows, context):
    asked = rows("asked", {"prompt": "the cat"}, {"prompt": "cat " * 60})
    stage = CritiqueRevise.model_validate(FIELDS | {"max_too_long": 0.5})
    assert stage.check(context(artifacts | {"prompts": asked}))["prompts"] == 1
    with pytest.raises(CheckError, match="leave no room for 24 new tokens"):
        CritiqueRevise.model_validate(FIELDS).check(context(artifacts | {"prompts": asked}))


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"sampling": {"n": 2}}, "a prompt gets one reply here"),
        ({"examples": 3}, "the constitution has 0"),
        ({"tags": ["harmles"]}, "no principle has the tag 'harmles'. Did you mean 'harmless'?"),
        ({"constitution": "tov"}, "there is no constitution 'tov'"),
    ],
)
def test_what_cannot_be_is_refused_while_the_recipe_is_read(more, what):
    with pytest.raises(ValueError) as error:
        CritiqueRevise.model_validate(FIELDS | more)
    assert what in str(error.value)
