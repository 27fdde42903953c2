"""What a key depends on, and what not (trap 17)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from align.recipe import load
from tests.recipe.conftest import GOOD, changed, content, differ, recipe, values


def test_only_dependents_of_a_changed_file_get_another_key() -> None:
    before = values(recipe())
    Path("words.txt").write_text("gooe\n")
    assert differ(before, values(recipe())) == {"reward", "replies"}
    Path("words.txt").write_text("good\n")
    assert values(recipe()) == before
    Path("demos.jsonl").write_text('{"text": "a demonstratioN"}\n')
    assert differ(before, values(recipe())) == {"demos", "sft", "reward", "dpo", "replies"}


@pytest.mark.parametrize(
    ("old", "new", "dependents"),
    [
        ("dtype: bfloat16", "dtype: float32", {"base", "sft", "reward", "dpo", "replies"}),
        ("{path: tests.jsonl}", "{path: tests.jsonl, limit: 5}", {"tests", "dpo", "replies"}),
        ("seed: 1", "seed: 2", {"sft", "reward", "dpo", "replies"}),
        ("lr: 2e-5", "lr: 2.1e-5", {"dpo", "replies"}),
        ("count: 3", "count: 4", {"dpo", "replies"}),
        ("[$base, $sft, $dpo]", "[$sft, $base, $dpo]", {"replies"}),
        ("reward: $reward, ", "", {"replies"}),
        ("reward: $reward, ", "reward: $reward, options: {a: 1}, ", {"replies"}),
    ],
)
def test_a_changed_field_changes_the_keys_of_its_dependents(old: str, new: str, dependents: set[str]) -> None:
    assert differ(values(recipe()), values(recipe(changed(old, new)))) == dependents


def test_the_parts_say_what_changed() -> None:
    (a, b) = (recipe(text).keys(content)["dpo"].parts for text in (GOOD, changed("lr: 2e-5", "lr: 1e-5")))
    assert a["fields"].pop("optim") == {"lr": 2e-5} and b["fields"].pop("optim") == {"lr": 1e-5}
    assert a == b and a["stage"] == "grow" and set(a["inputs"]) == {"policy", "data.0", "data.1.from"}
    assert json.loads(json.dumps(a)) == a


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("policy: $base, data: $demos", "data: $demos, policy: $base"),
        ("seed: 1\n", "# a remark\nseed: 1\n"),
        ("name: good", "name: better"),
        ("lr: 2e-5", "lr: 0.00002"),
        ("optim: {lr: 2e-5}", "optim: {lr: 2e-5, batch_size: 16}"),
        ("data: $demos", "data: $demos, loss: sigmoid, lora: null, smoothing: 0"),
        ("data: $demos", "data: $demos, optim: {lr: 1e-3}"),
        ("{path: demos.jsonl}", "{path: demos.jsonl, encoding: utf-8, columns: {}}"),
        ("{path: demos.jsonl}", "{path: ./demos.jsonl}"),
    ],
)
def test_what_means_the_same_has_the_same_key(old: str, new: str) -> None:
    assert values(recipe()) == values(recipe(changed(old, new)))


def test_the_order_of_a_mapping_is_not_in_the_key() -> None:
    a, b = (changed("prompts: $tests", f"prompts: $tests, options: {o}") for o in ("{x: 1, y: 2}", "{y: 2, x: 1}"))
    assert values(recipe(a)) == values(recipe(b))


def test_a_block_at_its_own_defaults_is_not_the_stage_s_default() -> None:
    assert differ(values(recipe()), values(recipe(changed("data: $demos", "data: $demos, optim: {}")))) >= {"sft"}
    assert differ(values(recipe()), values(recipe(changed("data: $demos", "data: $demos, lora: {}")))) >= {"sft"}


def test_branches_of_a_union_whose_fields_are_alike_have_keys_of_their_own() -> None:
    coarse = values(recipe(changed("data: $demos", "data: $demos, grain: {kind: coarse, size: 2}")))
    fine = values(recipe(changed("data: $demos", "data: $demos, grain: {kind: fine, size: 2}")))
    assert "sft" in differ(coarse, fine)


def test_a_renamed_stage_keeps_its_key_and_a_new_version_does_not() -> None:
    before = values(recipe())
    renamed = values(recipe(GOOD.replace("dpo", "tuned")))
    assert (renamed["tuned"], renamed["replies"]) == (before["dpo"], before["replies"])
    plugin = Path("recipe_stages.py")
    plugin.write_text(plugin.read_text().replace('name = "judge"', 'name = "judge"\n    version = 2'))
    assert differ(before, values(recipe())) == {"reward", "replies"}


def test_a_report_shows_names_so_they_are_in_its_key() -> None:
    text = GOOD + "  report: {stage: tell, policies: [$dpo]}\n"
    assert values(recipe(text))["report"] != values(recipe(text.replace("dpo", "tuned")))["report"]


def test_a_new_field_at_its_default_changes_no_key() -> None:
    before = values(recipe())
    plugin = Path("recipe_stages.py")
    plugin.write_text(plugin.read_text().replace("    smoothing: float", "    more: int = 3\n    smoothing: float"))
    made = recipe()
    assert made.stages["sft"].more == 3
    assert values(made) == before


def test_a_file_counts_by_content_even_where_it_is_the_default() -> None:
    plugin = Path("recipe_stages.py")
    plugin.write_text(plugin.read_text().replace("words: Path | None = None", 'words: Path = Path("words.txt")'))
    text = changed(", words: words.txt", "")
    before = values(recipe(text))
    Path("words.txt").write_text("bad\n")
    assert differ(before, values(recipe(text))) == {"reward", "replies"}


def test_the_files_of_a_plugin_are_in_the_keys_of_what_uses_its_rule_or_format(tmp_path: Path) -> None:
    plugin, file = tmp_path / "mine.py", tmp_path / "r.yaml"
    code = """
from align.data.formats import row_format
from align.records import Text
from align.rewards.base import RewardField, reward
from align.stage import Stage
from mark import MARK
@reward("loud")
def loud(prompt, reply): return float(reply.count(MARK))
@row_format("odd", needs=("odd",), makes=Text, example={"odd": "x"})
def odd(row, options): yield Text(row["odd"])
class Score(Stage):
    name = "score"
    makes = "report"
    reward: RewardField
    def run(self, ctx): return {}
"""
    (tmp_path / "rows.jsonl").write_text('{"odd": "x"}')
    (tmp_path / "mark.py").write_text("MARK = '!'\n")
    file.write_text(
        "plugins: [mine.py]\ndata: {guessed: {path: rows.jsonl}, odd: {path: rows.jsonl, format: odd},"
        " text: {path: rows.jsonl, format: text}, toys: {path: toy}}\n"
        "stages: {mine: {stage: score, reward: loud}, theirs: {stage: score, reward: length}}"
    )
    plugin.write_text(code)
    keys = values(load(file))
    plugin.write_text(code + "# more\n")
    more = values(load(file))
    assert differ(keys, more) == {"guessed", "odd", "mine"}
    (tmp_path / "mark.py").write_text("MARK = '?'\n")
    assert differ(more, values(load(file))) == {"guessed", "odd", "mine"}


def test_where_files_lie_is_in_no_key() -> None:
    before = values(recipe())
    Path("data").mkdir()
    shutil.move("demos.jsonl", "data/others.jsonl")
    assert values(recipe(changed("path: demos.jsonl", "path: data/others.jsonl"))) == before


def test_the_suffix_that_tells_a_format_is_in_the_key() -> None:
    before = values(recipe())
    shutil.move("demos.jsonl", "demos.txt")
    assert "demos" in differ(before, values(recipe(changed("path: demos.jsonl", "path: demos.txt"))))


def test_a_template_file_counts_by_content() -> None:
    Path("chat.jinja").write_text("{{ messages }}")
    text = changed("dtype: bfloat16", "template: chat.jinja")
    before = values(recipe(text))
    Path("chat.jinja").write_text("{{ messagez }}")
    assert differ(before, values(recipe(text))) == {"base", "sft", "reward", "dpo", "replies"}


def test_a_model_in_a_stage_counts_by_content() -> None:
    text = changed("words: words.txt", "outsider: {path: other}")
    Path("other").mkdir()
    Path("other/weights").write_text("1")
    before = values(recipe(text))
    Path("other/weights").write_text("2")
    assert differ(before, values(recipe(text))) == {"reward", "replies"}


def test_the_weights_beneath_somebody_else_s_adapter_count_too() -> None:
    text = changed("words: words.txt", "outsider: {path: other}")
    for name in ("other", "weights"):
        Path(name).mkdir()
    Path("other/adapter_config.json").write_text('{"base_model_name_or_path": "../weights"}')
    Path("weights/weights").write_text("1")
    before = values(recipe(text))
    Path("weights/weights").write_text("2")
    assert differ(before, values(recipe(text))) == {"reward", "replies"}


def test_the_toy_world_is_no_file_of_the_recipe() -> None:
    keys = recipe(changed("{path: demos.jsonl}", "{path: toy, options: {kind: demonstrations}}")).keys(content)
    assert keys["demos"].parts["fields"] == {"options": {"kind": "demonstrations"}} and not keys["demos"].provisional
