"""Where a recipe lies, and what it is called."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from align.errors import RecipeError
from align.recipe import load
from tests.recipe.conftest import GOOD, recipe


def test_a_recipe_is_found_by_path_folder_and_name() -> None:
    recipe()
    Path("recipes/mine").mkdir(parents=True)
    for target in ("recipes/mine/recipe.yaml", "recipes/mine/other.yaml", "recipes/flat.yaml"):
        (Path(target)).write_text(GOOD)
        for name in ("recipe_stages.py", "demos.jsonl", "tests.jsonl", "words.txt"):
            shutil.copy(name, Path(target).parent)
        shutil.copytree("model", Path(target).parent / "model", dirs_exist_ok=True)
    found = {name: load(name).file.relative_to(Path.cwd().resolve()).as_posix() for name in
             ("r.yaml", "r", "recipes/mine", "mine", "mine/other", "flat")}  # fmt: skip
    assert found == {
        "r.yaml": "r.yaml",
        "r": "r.yaml",
        "recipes/mine": "recipes/mine/recipe.yaml",
        "mine": "recipes/mine/recipe.yaml",
        "mine/other": "recipes/mine/other.yaml",
        "flat": "recipes/flat.yaml",
    }


def test_a_folder_may_name_its_recipe_after_itself() -> None:
    recipe()
    shutil.copytree(Path.cwd(), "twin")
    shutil.move("twin/r.yaml", "twin/twin.yaml")
    assert load("twin").file.name == "twin.yaml"


def test_a_name_that_is_not_found_brings_suggestions() -> None:
    Path("recipes").mkdir()
    Path("recipes/sentiment.yaml").write_text(GOOD)
    with pytest.raises(RecipeError, match=r"there is no recipe 'sentimant', .*Did you mean 'sentiment'\?"):
        load("sentimant")
