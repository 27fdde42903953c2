"""A recipe that is right, in a folder with all that it names; and changes of it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

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
