"""Transformations: what they change, what they leave, and that chance is the seed's."""

from random import Random

import pytest

from align.errors import RecipeError
from align.evals.brittleness import TRANSFORMATIONS, transformed
from align.plugins import forget_plugins, load_plugin
from align.records import Message, Prompt, prompt_id


def prompt(*turns):
    roles = ["user", "assistant"] * len(turns)
    messages = tuple(Message(role, text) for role, text in zip(roles, turns, strict=False))
    return Prompt(prompt_id(messages), messages)


ASKED = "Which planet is the largest one in our solar system, and why?"


def change(name, *turns, seed=0):
    return [m.content for m in TRANSFORMATIONS[name](prompt(*turns).prompt, Random(seed))]


def test_typos_swap_inner_letters_of_some_words():
    (text,) = change("typos", ASKED)
    differ = [(old, new) for old, new in zip(ASKED.split(), text.split(), strict=True) if old != new]
    assert len(differ) == 1, "an eighth of five words of four letters, and at least one"
    (old, new), letters = differ[0], sorted(differ[0][0])
    assert sorted(new) == letters and (new[0], new[-1]) == (old[0], old[-1])
    long = " ".join([ASKED] * 4)
    assert sum(old != new for old, new in zip(long.split(), change("typos", long)[0].split(), strict=True)) == 2
    assert change("typos", "2 + 2 = ?") == ["2 + 2 = ?"]


def test_casing_and_spacing_keep_the_words():
    assert change("casing", "What IS it?") == ["what is it?"]
    (text,) = change("spacing", ASKED)
    assert text.split() == ASKED.split() and text.endswith("\n") and "  " in text


def test_something_is_put_before_or_after():
    (text,) = change("irrelevant", ASKED)
    assert text.endswith(f". {ASKED}") and len(text) > len(ASKED) + 10
    assert change("suffix", ASKED)[0].startswith(f"{ASKED} ")


def test_examples_change_places_and_the_question_stays_last():
    turns = ("2 + 2", "4", "3 + 3", "6", "1 + 1", "2", "5 + 5")
    for seed in range(20):
        made = change("reordered", *turns, seed=seed)
        assert made[-1] == "5 + 5" and tuple(made) != turns
        assert {tuple(made[i : i + 2]) for i in (0, 2, 4)} == {("2 + 2", "4"), ("3 + 3", "6"), ("1 + 1", "2")}
    assert change("reordered", "hello") == ["hello"]
    system = (Message("system", "be kind"), *prompt(*turns).prompt)
    assert TRANSFORMATIONS["reordered"](system, Random(0))[0] == system[0]


@pytest.mark.parametrize("name", TRANSFORMATIONS.names())
def test_only_the_prompts_that_changed_are_told_and_the_seed_decides_how(name):
    prompts = [prompt("Which river?", "The Thames.", "a", "b", ASKED), prompt("1")]
    first, again = (transformed(prompts, name, seed=0) for _ in range(2))
    assert first == again
    assert first[0][0] == prompts[0] and first[0][1].prompt != prompts[0].prompt
    assert first[0][1].id == prompts[0].id
    if name in ("casing", "reordered", "typos"):
        assert len(first) == 1
    if name in ("irrelevant", "suffix", "spacing"):
        assert any(transformed(prompts, name, seed) != first for seed in range(1, 6))


def test_ones_own_is_registered_by_a_plugin(tmp_path):
    file = tmp_path / "shouted.py"
    file.write_text(
        "from align.evals.brittleness import transformation\nfrom align.records import Message\n"
        "@transformation('shouted')\ndef shouted(prompt, chance):\n"
        "    return (*prompt[:-1], Message('user', prompt[-1].content.upper()))\n"
    )
    load_plugin(file)
    assert change("shouted", "why?") == ["WHY?"]
    forget_plugins()
    with pytest.raises(RecipeError, match="no transformation is called 'shouted'"):
        TRANSFORMATIONS["shouted"]


def test_prompts_that_become_equal_are_asked_once():
    made = transformed([prompt("Why?"), prompt("WHY?"), prompt("why?")], "casing", seed=0)
    assert [(old.prompt[-1].content, new.prompt[-1].content) for old, new in made] == [("Why?", "why?")]
