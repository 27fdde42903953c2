"""What is refused, where that stands, and what would be right (trap 11)."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.errors import RecipeError
from align.recipe import load
from tests.recipe.conftest import GOOD, changed, recipe, refused


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
        "r.yaml:8: stages.a.lora.R: unknown key 'R'. Did you mean 'r'?",
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
        ("reward: $reward", "reward: $base", "r.yaml:17: stages.replies.reward: needs a reward, but 'base' is a model; "
         "one from outside is a block, {model: {path: ...}}"),
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
        ("  dpo:\n", "\tdpo:\n", "r.yaml:12: not YAML: a tab; YAML is indented by spaces"),
        ("  dpo:\n", "   dpo:\n", "r.yaml:12: not YAML: indented as no line above it is"),
        ("stage: judge", "stage: JUDGE", "r.yaml:11: stages.reward.stage: no stage is called 'JUDGE'. Did you mean"),
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


def test_an_artifact_in_place_of_a_model_is_told_what_to_do_with_it(folder: Path) -> None:
    for name in ("contract.json", "manifest.json"):
        (folder / "model" / name).write_text("{}")
    (told,) = refused(GOOD)
    assert told.startswith("r.yaml:4: models.base.path: ") and "model: an artifact, not a checkpoint." in told
    assert told.endswith(" DIR") and "align export" in told


def test_of_a_plugin_that_is_lost_nobody_says_that_its_stages_are_unknown() -> None:
    (told,) = refused("plugins: [lost.py]\nstages: {a: {stage: mine}}\n")
    assert told.startswith("r.yaml:1: plugins.0: there is no file ")


RL = """
models: {{base: {{path: model}}}}
data: {{pairs: {{path: demos.jsonl}}}}
stages:
  reward: {{stage: reward_model, policy: $base, data: $pairs{test}}}
  ppo: {{stage: ppo, policy: $base, reward: {reward}, prompts: $pairs{allow}}}
"""


@pytest.mark.parametrize(
    ("test", "reward", "allow", "place"),
    [
        ("", "$reward", "", "ppo.reward: "),
        ("", "[{from: $reward, weight: 2}]", "", "ppo.reward.0.from: "),
        ("", "{ensemble: {members: [$reward, refusal]}}", "", "ppo.reward.ensemble.members.0: "),
        (", test: $pairs", "$reward", "", None),
        ("", "$reward", ", doubtful_reward: allow", None),
    ],
)
def test_a_reward_that_nothing_will_test_is_refused_while_the_recipe_is_read(test, reward, allow, place) -> None:
    text = RL.format(test=test, reward=reward, allow=allow)
    if place is None:
        assert recipe(text).stages["ppo"]
    else:
        (told,) = refused(text)
        assert told.startswith(f"r.yaml:6: stages.{place}reward 'reward' is not tested; give its stage `test:`")


def test_a_policy_made_from_scratch_bounds_what_is_made_of_it_while_the_recipe_is_read() -> None:
    text = """
data: {demos: {path: demos.jsonl}}
stages:
  base: {stage: pretrain, model: {architecture: llama, max_position_embeddings: 64}, data: $demos, max_length: 64}
  sft: {stage: sft, policy: $base, data: $demos, max_length: 64}
  dpo: {stage: dpo, policy: $sft, data: $demos}
"""
    assert refused(text) == [
        "r.yaml:6: stages.dpo.max_length: 1024 is more than the model's 64 positions; set it to that"
    ]
    assert refused(
        text.replace("data: $demos}", "data: $demos, max_length: 64}").replace("64}, data", "32}, data")
    ) == [
        f"r.yaml:{line}: stages.{stage}.max_length: 64 is more than the model's 32 positions; set it to that"
        for line, stage in ((4, "base"), (5, "sft"), (6, "dpo"))
    ]


def test_in_a_loop_a_reward_is_known_by_what_it_is_bound_to() -> None:
    loop = """
models: {base: {path: model}}
data: {pairs: {path: demos.jsonl}}
stages:
  reward: {stage: reward_model, policy: $base, data: $pairs}
  tested: {stage: reward_model, policy: $base, data: $pairs, test: $pairs}
  rl:
    rounds: 2
    start: {policy: $base, judge: $tested}
    stages:
      ppo: {stage: ppo, policy: $policy, reward: $judge, prompts: $pairs}
    next: {policy: $ppo}
"""
    assert recipe(loop).loops["rl"]
    (told,) = refused(loop.replace("judge: $tested", "judge: $reward"))
    assert told.startswith("r.yaml:11: stages.rl.stages.ppo.reward: reward 'judge' is not tested")


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
