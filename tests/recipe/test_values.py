"""Values as the file, the environment and the command line give them."""

from __future__ import annotations

import pytest

from tests.recipe.conftest import GOOD, changed, recipe, refused, values


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
        ("dpo.optm.lr=1", "stages.dpo.optm: unknown key 'optm'. Did you mean 'optim'? (given on the command line)"),
        ("optim.lr=1", "optim.lr: nothing in the recipe is called 'optim'. Did you mean 'dpo.optim.lr'?"),
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
