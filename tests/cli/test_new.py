"""`align new`: a starter recipe that is right as it stands."""

from __future__ import annotations

import pytest

from align.recipe import load


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_the_starter_is_a_right_recipe_in_full_and_in_smoke(align):
    made = align("new", "assistant")
    assert made.code == 0
    assert "recipes/assistant.yaml is ready" in made.out
    recipe = load("assistant")
    assert recipe.name == "assistant"
    assert list(recipe.stages) == ["sft", "reward", "dpo", "result"]
    assert recipe.warnings == ()
    assert align("plan", "assistant", "--smoke").code == 0


def test_a_recipe_that_is_there_is_left_alone(align, tmp_path):
    align("new", "assistant")
    (tmp_path / "recipes" / "assistant.yaml").write_text("mine")
    again = align("new", "assistant")
    assert again.code == 2
    assert again.err.startswith("recipes/assistant.yaml: is there already")
    assert (tmp_path / "recipes" / "assistant.yaml").read_text() == "mine"


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "two words", ""])
def test_a_name_is_a_file_name(align, name):
    assert align("new", name).code == 2
