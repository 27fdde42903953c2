"""Constitutions: files of three forms, draws by weight, and what is asked."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from pydantic import BaseModel

from align import constitution
from align.constitution import Constitution, ConstitutionField, Principle, Transcript
from align.recipe.lookup import names
from align.records import Message
from align.registry import bundled

BUNDLED = ("harmless", "helpful-honest", "toy")
SHORT = """name: short
principles:
  - name: harm
    critique: Is it harmful?
    revision: Make it harmless.
    question: Which does less harm?
  - name: lies
    critique: Is it true?
    revision: Make it true.
    weight: 3
    tags: [honest]
transcripts:
  - {prompt: Hi, reply: Go away, principle: harm, critique: Rude., revision: Hello!}
"""


def written(folder, text, name="short.yaml"):
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_constitutions_are_whole_and_no_recipes(name, tmp_path):
    found = constitution.find(name, tmp_path)
    assert found.name == name and "align" in found.source
    assert all(principle.question and principle.tags for principle in found.principles)
    assert not [known for known in names() if "constitutions" in known]
    assert constitution.files(tmp_path).keys() == set(BUNDLED)


def test_one_beside_the_recipe_hides_the_bundled_one_and_a_path_is_a_path(tmp_path):
    (tmp_path / "constitutions").mkdir()
    written(tmp_path / "constitutions", SHORT, "harmless.yaml")
    assert len(constitution.find("harmless", tmp_path).principles) == 2
    assert constitution.find("constitutions/harmless.yaml", tmp_path).name == "short"
    with pytest.raises(
        ValueError, match=r"there is no constitution 'harmles', as a name or a file. Did you mean 'harm"
    ):
        constitution.find("harmles", tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("    revision: Make it true.\n", "", "7: principles.1.revision: is missing"),
        ("weight: 3", "weight: -3", "10: principles.1.weight: should be greater than 0, found -3"),
        ("name: lies", "name: harm", "7: principles.1.name: 'harm' is there twice"),
        ("critique: Is it true?", "critique: ''", "8: principles.1.critique: is empty"),
        ("    critique: Is it true", "    name: truth\n    critique: Is it true", "8: principles.1.name: 'name'"),
        ("Is it harmful?", "Is it: harmful?", "4: not YAML: mapping values are not allowed here; a text with"),
        ("[honest]", "honest", "11: principles.1.tags: should be a list, found 'honest'"),
        ("prompt: Hi", "before: [Oh], prompt: Hi", "13: transcripts.0.before: has 1 turns; the prompt comes"),
        ("principle: harm", "principle: harms", "13: transcripts.0.principle: there is no principle 'harms'. Did you"),
        ("principle: harm, ", "", "13: transcripts.0: needs `principle:`, or both requests in words"),
        ("tags: [honest]", "tag: honest", "11: principles.1.tag: unknown key 'tag'. Did you mean 'tags'?"),
        ("principles:", "  principles:", "2: not YAML"),
        (SHORT, "", "1: a constitution is a block of keys with `principles:`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(tmp_path, old, new, where):
    assert old in SHORT
    with pytest.raises(ValueError) as error:
        constitution.read(written(tmp_path, SHORT.replace(old, new, 1)))
    assert f"short.yaml:{where}" in str(error.value)


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    text = SHORT.replace("critique: Is it harmful?", "critque: Is it harmful?").replace("weight: 3", "weight: heavy")
    with pytest.raises(ValueError) as error:
        constitution.read(written(tmp_path, text))
    said = str(error.value).splitlines()
    assert [line.split("short.yaml:")[1].split(":")[0] for line in said] == ["3", "4", "10"]
    assert said[1].endswith("principles.0.critque: unknown key 'critque'. Did you mean 'critique'?")


def test_a_transcript_has_the_requests_of_its_principle(tmp_path):
    (example,) = constitution.read(written(tmp_path, SHORT)).transcripts
    assert [turn.content for turn in example.turns()] == [
        "Hi", "Go away", "Is it harmful?", "Rude.", "Make it harmless.", "Hello!",
    ]  # fmt: skip
    assert [turn.role for turn in example.turns()] == ["user", "assistant"] * 3


def test_published_forms_are_read(shared):
    nemo = constitution.read(shared / "data/nemo-aligner-cai/CritiqueRevisionInstructions.json")
    assert len(nemo.principles) == 16
    first = nemo.principles[0]
    assert first.critique.startswith("Identify specific ways") and first.critique.endswith("dangerous, or illegal.")
    assert first.revision.startswith("Please rewrite the assistant response") and "Revision" not in first.revision
    assert first.feedback == f"Which of the two replies leaves less to say here? {first.critique}"
    swarm = constitution.read(shared / "data/llm-swarm-cai/constitution_anthropic.json")
    assert (len(swarm.principles), len(swarm.transcripts)) == (16, 4)
    grok = constitution.read(shared / "data/llm-swarm-cai/constituion_grok.json")
    assert [len(example.turns()) for example in grok.transcripts] == [6, 6, 6, 8], "one has a turn before its prompt"


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"a": {"prompt": ["x"]}}, "a.edit_request: is missing"),
        ({"a": {"prompt": "x", "edit_request": "y"}}, "a.prompt: should be a list, found 'x'"),
        ({"constitutions": [{"critic": "x"}]}, "constitutions.0.revision: is missing"),
        ({"constitutions": 3}, "constitutions: should be a list, found 3"),
        ({"constitutions": [], "system_chat": [[{"content": "x"}] * 5]}, "system_chat.0: has 5 turns; an"),
        ({"samples": []}, "principles: is missing"),
    ],
)
def test_what_is_wrong_with_a_published_form_is_said_in_its_own_keys(tmp_path, value, what):
    file = written(tmp_path, json.dumps(value), "theirs.json")
    with pytest.raises(ValueError, match=r"theirs\.json") as error:
        constitution.read(file)
    assert what in str(error.value)


def test_principles_and_examples_may_be_those_of_other_files(shared, tmp_path):
    folder = shared / "data/nemo-aligner-cai"
    parts = {"principles": "CritiqueRevisionInstructions.json", "transcripts": "few_shot_samples_example.json"}
    text = "".join(f"{part}: {folder / name}\n" for part, name in parts.items())
    made = constitution.read(written(tmp_path, "source: NeMo-Aligner\n" + text))
    assert (made.source, len(made.principles), len(made.transcripts)) == ("NeMo-Aligner", 16, 2)
    assert made.transcripts[1].critique_request == "critique request"
    for wrong, why in (("gone.json", "is not there"), (str(folder / parts["transcripts"]), "has no principles")):
        with pytest.raises(ValueError, match=rf"short\.yaml:1: principles: .* {why}"):
            constitution.read(written(tmp_path, f"principles: {wrong}\n"))


def test_heavier_principles_are_drawn_first_as_often_as_their_weight_says():
    principles = [Principle(name=n, critique="?", revision="!", weight=w) for n, w in (("a", 1), ("b", 3))]
    first = Counter(constitution.drawn(principles, seed)[0].name for seed in range(4000))
    assert first["b"] / 4000 == pytest.approx(0.75, abs=0.021), "three standard errors"
    assert {p.name for p in constitution.drawn(principles, 0)} == {"a", "b"}
    assert constitution.drawn(principles, 7) == constitution.drawn(principles, 7)


def test_tags_choose(tmp_path):
    found = constitution.read(written(tmp_path, SHORT))
    assert [p.name for p in found.tagged(["honest"])] == ["lies"]
    assert found.tagged([]) == found.principles
    with pytest.raises(ValueError, match=r"no principle has the tag 'honst'. Did you mean 'honest'?"):
        found.tagged(["honst"])


def test_a_name_in_a_recipe_stands_for_the_content(tmp_path):
    class Uses(BaseModel):
        constitution: ConstitutionField

    (tmp_path / "constitutions").mkdir()
    file = written(tmp_path / "constitutions", SHORT)
    made = Uses.model_validate({"constitution": "short"}, context={"base": tmp_path}).constitution
    assert isinstance(made, Constitution) and made == constitution.read(file)


def test_what_is_judged_stands_before_what_differs():
    """So that a critique goes on from the reply, a revision from the critique, and questions share the conversation."""
    principle = Principle(name="harm", critique="Harmful?", revision="Better!", question="Which is better?")
    other = Principle(name="lies", critique="True?", revision="Better!")
    prompt = (Message("system", "Be kind."), Message("user", "Hi"))
    example = Transcript(prompt="P", reply="R", critique_request="?", critique="C", revision_request="!", revision="V")
    criticised = constitution.asked_to_criticise(prompt, "Go away", principle, example.turns())
    said = [(turn.role, turn.content) for turn in criticised]
    assert said[0] == ("system", "Be kind.") and said[1:7] == [(t.role, t.content) for t in example.turns()]
    assert said[7:] == [("user", "Hi"), ("assistant", "Go away"), ("user", "Harmful?")]
    revised = constitution.asked_to_revise(criticised, "Rude.", principle)
    assert revised[: len(criticised)] == criticised
    assert [turn.content for turn in revised[-2:]] == ["Rude.", "Better!"]
    one, two = (constitution.asked_to_compare(prompt, "x", "y", p)[0].content for p in (principle, other))
    shared = "Compare two replies.\n\nSystem: Be kind.\n\nUser: Hi\n\n(A) x\n\n(B) y\n\nWhich "
    assert one == shared + "is better? Answer with A or B."
    assert two.startswith(shared) and "True?" in two


def test_the_toy_constitution_is_what_the_toy_worlds_text_has():
    from align.data.toy_transcripts import FILE, STANDARDS

    assert bundled("recipes") / "constitutions" / "toy.yaml" == FILE
    assert {p.name for p in constitution.read(FILE).principles} == STANDARDS.keys()
