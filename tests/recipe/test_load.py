"""A recipe that is right: its graph, its names, what it warns of, and that loading it is light."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from align.errors import RecipeError
from align.recipe import load
from tests.recipe.conftest import GOOD, HUB, changed, content, differ, recipe, values


def test_a_recipe_is_its_graph() -> None:
    made = recipe()
    assert (made.name, made.seed, made.base) == ("good", 1, Path.cwd().resolve())
    assert list(made.stages) == ["sft", "reward", "dpo", "replies"]
    assert made.stages["dpo"].optim.lr == 2e-5
    assert made.models["base"].dtype == "bfloat16" and made.data["demos"].path == "demos.jsonl"
    assert made.inputs("dpo") == {"policy": "sft", "data.0": "demos", "data.1.from": "tests"}
    assert made.text == GOOD and made.warnings == ()


def test_stages_come_after_what_they_need_and_else_in_the_order_of_the_file() -> None:
    header = GOOD.split("stages:\n")[0]
    one = "  {0}: {{stage: grow, policy: ${1}, data: $demos}}\n"
    text = header + "stages:\n" + one.format("c", "a") + one.format("b", "base") + one.format("a", "base")
    assert list(recipe(text).stages) == ["a", "c", "b"]


def test_a_recipe_without_name_has_that_of_its_file_or_folder() -> None:
    assert recipe(changed("name: good\n", "")).name == "r"
    Path("recipe.yaml").write_text(changed("name: good\n", ""))
    assert load("recipe.yaml").name == Path.cwd().name


def test_unused_entries_are_warnings_with_their_line() -> None:
    made = recipe(changed("data:\n", "data:\n  spare: {path: demos.jsonl}\n"))
    assert [str(w) for w in made.warnings] == ["r.yaml:6: data.spare: no stage refers to it"]


def test_sections_may_be_left_empty() -> None:
    text = "models:\n  base: {path: model}\ndata:\nplugins: [recipe_stages.py]\nstages:\n"
    assert recipe(text + "  r: {stage: judge, policy: $base}\n").data == {}


def test_a_smoke_run_needs_no_data_and_shares_nothing_with_the_real_one(no_network: list[str]) -> None:
    before = values(recipe())
    Path("demos.jsonl").unlink()
    shutil.rmtree("model")
    made = recipe(smoke=True)
    assert (made.name, made.smoke) == ("good-smoke", True)
    assert differ(before, values(made)) == set(before)
    assert not recipe(HUB, smoke=True).keys(content)["base"].provisional and not no_network


def test_loading_and_keys_import_no_torch() -> None:
    recipe()
    code = (
        "import sys; from align.recipe import load; load('r.yaml').keys(lambda path: path.name); "
        "print(sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "[]"


def test_a_model_behind_a_server_writes_and_is_not_trained(tmp_path):
    text = """
models:
  judge: {endpoint: "http://localhost:8000/v1", name: Qwen/Qwen3-8B, concurrency: 2}
  wrong: {endpoint: localhost, name: x}
data: {demos: {path: toy}}
stages:
  sft: {stage: sft, policy: $judge, data: $demos}
"""
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "r.yaml")
    said = str(caught.value)
    assert "stages.sft.policy: needs a policy, but 'judge' is an endpoint" in said
    assert "models.wrong.endpoint" in said
