"""Recipes: what is refused and where, what is known by which name, and what a key depends on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, constants, errors

from align.errors import RecipeError
from align.recipe import Recipe, load

GOOD = """\
name: good
seed: 1
models:
  base: {path: model, dtype: bfloat16}
data:
  demos: {path: demos.jsonl}
  tests: {path: tests.jsonl}
plugins: [recipe_stages.py]
stages:
  sft: {stage: grow, policy: $base, data: $demos}
  reward: {stage: judge, policy: $sft, words: words.txt}
  dpo:
    stage: grow
    policy: $sft
    data: [$demos, {from: $tests, count: 3}]
    optim: {lr: 2e-5}
  replies: {stage: write, policies: [$base, $sft, $dpo], reward: $reward, prompts: $tests}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that GOOD names, and the working directory; `hub` is the hub's cache."""
    shutil.copy(Path(__file__).parent / "recipe_stages.py", tmp_path)
    (tmp_path / "demos.jsonl").write_text('{"text": "a demonstration"}\n')
    (tmp_path / "tests.jsonl").write_text('{"text": "a test"}\n')
    (tmp_path / "words.txt").write_text("good\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("0 1 2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def recipe(text: str = GOOD, *overrides: str, smoke: bool = False) -> Recipe:
    Path("r.yaml").write_text(text)
    return load("r.yaml", overrides, smoke=smoke)


def refused(text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        recipe(text, *overrides)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def changed(old: str, new: str, count: int = 1) -> str:
    assert GOOD.count(old) >= 1
    return GOOD.replace(old, new, count)


def content(path: Path) -> str:
    """A hash that is no business of the recipe's."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return hashlib.md5(b"".join(file.read_bytes() for file in files)).hexdigest()


def values(made: Recipe) -> dict[str, str]:
    return {name: key.value for name, key in made.keys(content).items()}


def differ(a: dict[str, str], b: dict[str, str]) -> set[str]:
    return {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)}


# What a good one says


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


# Where a recipe lies


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


# What is refused (trap 11)


def test_all_that_is_wrong_is_said_at_once_in_the_order_of_the_file() -> None:
    text = """\
models:
  base: {path: model, dtype: bfloat}
data:
  demos: {path: demo.jsonl, limt: 3}
  tests: {path: test.jsonl}
plugins: [recipe_stages.py]
stages:
  a: {stage: grow, policy: $base, data: $demos, lora: {R: 3, alpha: -1}}
  b: {stage: grow, policy: $demos, data: $bas}
  c: {stage: grwo}
  d: {stage: grow, policy: $a}
"""
    assert refused(text) == [
        "r.yaml:2: models.base.dtype: should be 'float32', 'bfloat16' or 'float16', found 'bfloat'. "
        "Did you mean 'bfloat16'?",
        "r.yaml:4: data.demos.limt: unknown key 'limt'. Did you mean 'limit'?",
        f"r.yaml:5: data.tests.path: {Path.cwd().resolve()}/test.jsonl: no such file or folder. "
        "Did you mean 'tests.jsonl'?",
        "r.yaml:8: stages.a.lora.alpha: should be greater than 0, found -1",
        "r.yaml:8: stages.a.lora.R: unknown key 'R'. There are: alpha, dropout, r, rslora, targets.",
        "r.yaml:9: stages.b.policy: needs a policy, but 'demos' is a dataset",
        "r.yaml:9: stages.b.data: no stage, model or dataset is called 'bas'. Did you mean 'base'?",
        "r.yaml:10: stages.c.stage: no stage is called 'grwo'. Did you mean 'grow'?",
        "r.yaml:11: stages.d.data: is missing. What to learn from.",
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("seed: 1", "sede: 1", "r.yaml:2: sede: unknown key 'sede'. Did you mean 'seed'?"),
        ("seed: 1", "lr: 1", "r.yaml:2: lr: unknown key 'lr'. There are: data, models, name, plugins, seed, stages."),
        ("policy: $base", "policy: $reward",
         "r.yaml:10: stages.sft.policy: needs a policy, but 'reward' makes a reward"),
        ("reward: $reward", "reward: $sft",
         "r.yaml:17: stages.replies.reward: needs a reward, but 'sft' makes a policy"),
        ("data: $demos", "data: $base", "r.yaml:10: stages.sft.data: needs records, but 'base' is a model"),
        ("{lr: 2e-5}", "{learning_rate: 1}", "r.yaml:16: stages.dpo.optim.learning_rate: unknown key 'learning_rate'. "
         "There are: batch_size, betas, eps, final_lr, lr, max_grad_norm, schedule, warmup, weight_decay."),
        ("optim: {lr: 2e-5}", "lr: 2e-5", "r.yaml:16: stages.dpo.lr: unknown key 'lr'. It belongs under 'optim'"),
        ("{lr: 2e-5}", "{smoothing: 1}",
         "r.yaml:16: stages.dpo.optim.smoothing: unknown key 'smoothing'. It belongs in the stage itself"),
        ("{lr: 2e-5}", "{r: 1}", "r.yaml:16: stages.dpo.optim.r: unknown key 'r'. It belongs under 'lora'"),
        ("optim: {lr: 2e-5}", "max_tokens: 5", "r.yaml:16: stages.dpo.max_tokens: 'max_tokens' is a setting of the "
         "machine and belongs in no recipe; set ALIGN_MAX_TOKENS for this run"),
        ("data: $demos", "data: 3",
         "r.yaml:10: stages.sft.data: expected a reference to records, such as $name, found 3"),
        ("{lr: 2e-5}", "{lr: fast}", "r.yaml:16: stages.dpo.optim.lr: should be a valid number, unable to parse string "
         "as a number, found 'fast'"),
        ("optim: {lr: 2e-5}", "optim: 3", "r.yaml:16: stages.dpo.optim: should be a block of keys, found 3"),
        ("{from: $tests, count: 3}", "{from: $tests, cuont: 3}",
         "r.yaml:15: stages.dpo.data.1.cuont: unknown key 'cuont'. Did you mean 'count'?"),
        ("{from: $tests, count: 3}", "{from: $test, count: 3}",
         "r.yaml:15: stages.dpo.data.1.from: no stage, model or dataset is called 'test'. Did you mean 'tests'?"),
        ("words: words.txt", "words: word.txt", "r.yaml:11: stages.reward.words: there is no file {here}/word.txt"),
        ("words: words.txt", "outsider: {path: ./mode}", "r.yaml:11: stages.reward.outsider.path: {here}/mode: no such "
         "folder, and no hub name either. Did you mean 'model'?"),
        ("stage: write, ", "", "r.yaml:17: stages.replies: `stage:` is missing. There are: "),
        ("{stage: judge, policy: $sft, words: words.txt}", "judge",
         "r.yaml:11: stages.reward: should be a block of keys, found 'judge'"),
        ("  tests:", "  sft:", "r.yaml:10: stages.sft: 'sft' is taken already; `$sft` must mean one thing"),
        ("  tests:", "  a.b:", "r.yaml:7: data.a.b: 'a.b' cannot be a name; use letters, digits, '_' and '-'"),
        ("  tests:", "  stages:", "r.yaml:7: data.stages: 'stages' cannot be a name; use letters, digits, '_' and '-'"),
        ("name: good", "name: ../good", "r.yaml:1: name: "),
        ("plugins: [recipe_stages.py]", "plugins: [recipe_stages.py, more.py]",
         "r.yaml:8: plugins.1: there is no file {here}/more.py"),
        ("seed: 1", "seed: 1\nseed: 2", "r.yaml:3: seed: 'seed' is given twice; the first is in line 2"),
        ("{lr: 2e-5}", "{lr: 1, lr: 2}",
         "r.yaml:16: stages.dpo.optim.lr: 'lr' is given twice; the first is in line 16"),
        ("{lr: 2e-5}", "{<<: {lr: 3}}", "r.yaml:16: stages.dpo.optim.<<: unknown key '<<'."),
        ("{lr: 2e-5}", "&x [*x]", "r.yaml:16: stages.dpo.optim.0: an alias that contains itself"),
        ("seed: 1", "seed: !!python/name:os.system 1", "r.yaml:2: seed: '1': could not determine a constructor"),
    ],
)  # fmt: skip
def test_one_mistake_is_told_with_its_place_and_what_is_right(old: str, new: str, problem: str) -> None:
    told = refused(changed(old, new))
    assert any(line.startswith(problem.replace("{here}", str(Path.cwd().resolve()))) for line in told), told


def test_an_inert_combination_stands_at_the_key_that_does_nothing() -> None:
    told = refused(changed("    optim: {lr: 2e-5}\n", "    loss: ipo\n    smoothing: 0.1\n"))
    assert told == ["r.yaml:17: stages.dpo.smoothing: smoothing has no effect with loss ipo"]


def test_of_a_union_s_branches_the_one_that_fits_best_speaks() -> None:
    told = refused(changed("words: words.txt", "depth: {siez: 2}"))
    assert told == ["r.yaml:11: stages.reward.depth.siez: unknown key 'siez'. Did you mean 'size'?"]
    (told_twice,) = refused(changed("words: words.txt", "depth: deep"))
    assert "should be a valid integer" in told_twice and " or should be a block of keys" in told_twice


def test_a_cycle_is_named() -> None:
    told = refused(changed("policy: $base", "policy: $dpo"))
    assert told == ["r.yaml:10: stages.sft: needs its own result: sft -> dpo -> sft"]
    assert refused(changed("policy: $base", "policy: $sft")) == [
        "r.yaml:10: stages.sft: needs its own result: sft -> sft"
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "hello\n"])
def test_what_is_no_mapping_is_no_recipe(text: str) -> None:
    assert refused(text) == ["r.yaml:1: a recipe is a mapping with `models:`, `data:` and `stages:`"]


def test_a_recipe_needs_stages() -> None:
    assert refused("seed: 1\n") == ["r.yaml:1: stages: is missing. The steps, by the name that `$name` refers to; "
                                    "their order follows from the references."]  # fmt: skip
    assert refused("seed: 1\nstages: {}\n") == ["r.yaml:2: stages: a recipe needs at least one stage"]


def test_broken_yaml_is_told_with_its_line() -> None:
    (told,) = refused(changed("{path: model, dtype: bfloat16}", "{path: model, dtype: bfloat16"))
    assert told.startswith("r.yaml:5: not YAML: ")


def test_a_file_that_cannot_be_read_is_refused() -> None:
    Path("r.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(RecipeError, match=r"r\.yaml: cannot be read"):
        load("r.yaml")


# Values


def test_numbers_and_words_are_read_as_yaml_1_2_reads_them() -> None:
    options = "{a: 1e-5, b: 010, c: no, d: 1:30, e: 2026-11-24, f: .5, g: true, h: ~, i: '1', on: -3, j: 1_000, k: 1.}"
    made = recipe(changed("prompts: $tests", f"prompts: $tests, options: {options}"))
    assert made.stages["replies"].options == {
        "a": 1e-5, "b": "010", "c": "no", "d": "1:30", "e": "2026-11-24", "f": 0.5, "g": True, "h": None, "i": "1",
        "on": -3, "j": 1000, "k": 1.0,
    }  # fmt: skip


def test_the_environment_fills_in_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "demos")
    monkeypatch.setenv("SEED", "7")
    monkeypatch.setenv("EMPTY", "")
    text = changed("seed: 1", "seed: ${env:SEED}").replace("{path: demos.jsonl}", '{path: "${env:WHERE}.jsonl"}')
    text = text.replace("{path: tests.jsonl}", "\n    path: ${env:EMPTY:-tests}.jsonl\n    limit: ${env:LIMIT:-12}")
    made = recipe(text)
    assert (made.seed, made.data["demos"].path) == (7, "demos.jsonl")
    assert (made.data["tests"].path, made.data["tests"].limit) == ("tests.jsonl", 12)


@pytest.mark.parametrize(
    ("new", "problem"),
    [
        ("seed: ${env:NO}", "seed: environment variable NO is not set; ${env:NO:-default} gives a default"),
        ("seed: ${seed}", "seed: '${seed}': only ${env:NAME} and ${env:NAME:-default} are replaced"),
        ("seed: ${env:A", "seed: '${env:A': only ${env:NAME} and ${env:NAME:-default} are replaced"),
        ("models: {m: {path: ${env:A}}}", "not YAML: "),
    ],
)
def test_other_replacements_are_refused(new: str, problem: str) -> None:
    told = refused(changed("seed: 1", new))
    assert told[0].startswith(f"r.yaml:2: {problem}")
    assert new.startswith("seed") or told[0].endswith('a value with ${...} needs quotes: "${env:NAME}"')


# Overrides


def test_overrides_are_long_or_short_and_reach_what_the_file_leaves_at_its_default() -> None:
    made = recipe(GOOD, "seed=3", "stages.sft.smoothing=0.5", "dpo.optim.lr=1e-4", "sft.lora.r=4", "demos.limit=2",
                  "base.dtype=float32", "replies.policies.1=$base", "dpo.data=$tests", "reward.words=null")  # fmt: skip
    assert made.seed == 3
    assert (made.stages["sft"].smoothing, made.stages["sft"].lora.r) == (0.5, 4)
    assert made.stages["dpo"].optim.lr == 1e-4
    assert (made.data["demos"].limit, made.models["base"].dtype) == (2, "float32")
    assert [ref.name for ref in made.stages["replies"].policies] == ["base", "base", "dpo"]
    assert made.inputs("dpo")["data"] == "tests"
    assert made.stages["reward"].words is None


def test_an_override_gives_the_key_that_the_file_would_give() -> None:
    by_file = recipe(changed("lr: 2e-5", "lr: 1e-4"))
    assert values(recipe(GOOD, "dpo.optim.lr=0.0001")) == values(by_file)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("dpo.betta=1", "stages.dpo.betta: unknown key 'betta'. There are: "),
        ("dpo.optim.lrr=1", "stages.dpo.optim.lrr: unknown key 'lrr'. Did you mean 'lr'? (given on the command line)"),
        ("dop.lr=1", "dop.lr: nothing in the recipe is called 'dop'. Did you mean 'dpo'?"),
        ("sede=1", "sede: nothing in the recipe is called 'sede'. Did you mean 'seed'?"),
        ("stages.dop.lr=1", "stages.dop.lr: an override changes an existing entry of 'stages'. Did you mean 'dpo'?"),
        ("stages={}", "stages: an override changes an existing entry of 'stages'."),
        ("dpo.optim.lr", "'dpo.optim.lr' is no override; write key=value, such as dpo.beta=0.2"),
        ("dpo.optim.lr=x", "stages.dpo.optim.lr: should be a valid number"),
        ("dpo.policy.x=1", "dpo.policy.x: there is nothing of that name to override"),
        ("replies.policies.3=$sft", "replies.policies.3: there is nothing of that name to override"),
        ("dpo.policy=$reward", "stages.dpo.policy: needs a policy, but 'reward' makes a reward (given on the command"),
        ("dpo.optim={lr: 1", "stages.dpo.optim: not YAML: "),
    ],
)
def test_overrides_must_name_what_is_there(override: str, problem: str) -> None:
    told = refused(GOOD, override)
    assert [line for line in told if line.startswith(problem)], told


# Keys (trap 17)


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


# The hub


def remember_on_hub(folder: str, revision: str, commit: str) -> None:
    ref = Path("hub") / folder / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hub does not answer; returns what it was asked for."""
    asked: list[str] = []

    def repo_info(self: HfApi, repo: str, **options: object) -> None:
        asked.append(repo)
        raise ConnectionError("no network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    return asked


HUB = GOOD.replace("{path: model, dtype: bfloat16}", "{path: someone/model}").replace(
    "{path: demos.jsonl}", "{path: someone/demos, split: train}"
)


def test_hub_names_are_pinned_to_the_commit_in_the_cache(no_network: list[str]) -> None:
    remember_on_hub("models--someone--model", "main", "a" * 40)
    remember_on_hub("datasets--someone--demos", "main", "b" * 40)
    made = recipe(HUB)
    assert (made.models["base"].revision, made.data["demos"].revision) == ("a" * 40, "b" * 40)
    before = made.keys(content)
    assert not no_network and not any(key.provisional for key in before.values())
    remember_on_hub("models--someone--model", "main", "c" * 40)
    assert differ(values(made), values(recipe(HUB))) == {"base", "sft", "reward", "dpo", "replies"}
    pinned = recipe(HUB.replace("someone/model", f"someone/model, revision: {'a' * 40}"))
    assert values(pinned) == values(made)


def test_without_an_answer_keys_are_provisional_and_the_hub_is_asked_once(no_network: list[str]) -> None:
    keys = recipe(HUB).keys(content)
    assert no_network == ["someone/model"]
    assert keys["base"].provisional.startswith("someone/model is not in the local Hugging Face cache and the hub does")
    assert all(keys[name].provisional for name in ("demos", "sft", "reward", "dpo", "replies"))
    assert not keys["tests"].provisional


def test_what_the_hub_says_it_does_not_have_is_refused_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def repo_info(self: HfApi, repo: str, **options: object) -> None:
        raise errors.RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    assert refused(HUB)[0].startswith("r.yaml:4: models.base.path: the hub has no model 'someone/model'")


# Smoke


def test_a_smoke_run_needs_no_data_and_shares_nothing_with_the_real_one(no_network: list[str]) -> None:
    before = values(recipe())
    Path("demos.jsonl").unlink()
    shutil.rmtree("model")
    made = recipe(smoke=True)
    assert (made.name, made.smoke) == ("good-smoke", True)
    assert differ(before, values(made)) == set(before)
    assert not recipe(HUB, smoke=True).keys(content)["base"].provisional and not no_network


# Light


def test_loading_and_keys_import_no_torch() -> None:
    recipe()
    code = (
        "import sys; from align.recipe import load; load('r.yaml').keys(lambda path: path.name); "
        "print(sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
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
