"""The verbs that need a model, over one real run: a model from scratch, tuned, and compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

WORDS = ["the", "cat", "sat", "on", "the", "mat", "and", "the", "dog", "ran", "off", "so", "very", "happy"]
RECIPE = """\
name: tiny
data:
  texts: {path: texts.txt}
  demos: {path: demos.jsonl}
stages:
  base:
    stage: pretrain
    data: $texts
    model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16}
    tokenizer: {kind: words}
    max_length: 32
    optim: {batch_size: 8}
  sft: {stage: sft, policy: $base, data: $demos, max_length: 32, optim: {batch_size: 8}}
  result: {stage: compare, policies: [$base, $sft], prompts: $demos, rewards: [length], sampling: {max_new_tokens: 8}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the recipe was run, and what that printed."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "texts.txt").write_text("".join(" ".join(WORDS[i % 9 : i % 9 + 5]) + "\n" for i in range(40)))
    rows = [{"prompt": " ".join(WORDS[i % 7 : i % 7 + 3]), "completion": WORDS[i % 5]} for i in range(32)]
    (folder / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tiny.yaml").write_text(RECIPE)
    command = [sys.executable, "-P", "-m", "align", "run", "tiny"]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"COLUMNS": "80"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.fixture
def tiny(align, made, tmp_path):
    """The command, in a copy of that folder."""
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True, symlinks=True)
    return align


def test_a_run_ends_with_the_table(made):
    lines = [line.split() for line in made[1].splitlines()]
    assert ["base", "sft"] in lines
    assert any(line[:1] == ["distinct-2"] for line in lines)
    assert ["report:", "runs/tiny/report.html"] in lines
    assert lines[-1] == ["runs/tiny:", "3", "finished"]


def test_the_page_is_made_again(tiny, tmp_path):
    page = tmp_path / "runs" / "tiny" / "report.html"
    first = page.read_text()
    page.unlink()
    assert tiny("report", "tiny", "--figures", "figures").out == "runs/tiny/report.html, charts in figures\n"
    assert page.read_text() == first
    assert "training-sft-loss.csv" in {file.name for file in (tmp_path / "figures").iterdir()}
    (tmp_path / "tiny.yaml").rename(tmp_path / "renamed.yaml")
    assert tiny("report", "renamed").out == "runs/tiny/report.html\n", "by the recipe's file, whatever its name in it"
    assert tiny("report", "tiny/result").out == "runs/tiny/result.html\n"
    assert (tmp_path / "runs" / "tiny" / "result.html").read_text() == first
    wrong = tiny("report", "tiny/sft")
    assert wrong.code == 2 and "no comparison.json in it" in wrong.err


def test_sample_answers_each_prompt_n_times_and_the_same_again(tiny):
    command = ("sample", "tiny/sft", "--prompt", "the cat", "--prompt", "the dog", "-n", "3", "--max-new-tokens", "4")
    first = tiny(*command)
    assert first.code == 0
    lines = first.out.splitlines()
    assert [lines[0], lines[4]] == ["the cat", "the dog"]
    assert len(lines) == 8
    assert tiny(*command).out == first.out
    assert tiny(*command, "--seed", "1").out != first.out


def test_sample_shows_the_best_of_several_by_a_reward(tiny, tmp_path):
    (tmp_path / "reward_models").mkdir()
    card = "{description: d, bad_at: b, rule: length, options: {unit: characters}, better: lower}"
    (tmp_path / "reward_models" / "short.yaml").write_text(card)

    def replies(*options):
        drawn = ("--temperature", "2", "--max-new-tokens", "8")
        done = tiny("sample", "tiny/sft", "--prompt", "the cat", *drawn, *options)
        assert done.code == 0, done.err
        return [line.strip() for line in done.out.splitlines()[1:]]

    every = replies("-n", "4", "--reward", "short")
    scores = [int(line.split()[0]) for line in every]
    assert len(set(scores)) > 1
    assert replies("--best-of", "4", "--reward", "short") == [every[scores.index(min(scores))]]
    assert "needs --reward" in tiny("sample", "tiny/sft", "--prompt", "the", "--best-of", "4").err
    neither = tiny("sample", "tiny/sft", "--prompt", "the", "--reward", "refusal", "--best-of", "4")
    assert neither.code == 2 and "'refusal' calls no score better" in neither.err
    wrong = tiny("sample", "tiny/sft", "--prompt", "the", "--reward", "lenght")
    assert wrong.code == 2 and "Did you mean 'length'?" in wrong.err


def test_sample_needs_a_policy_and_a_prompt(tiny):
    assert tiny("sample", "tiny/sft").code == 2
    wrong = tiny("sample", "tiny/result", "--prompt", "x")
    assert wrong.code == 2
    assert "a report, not a policy" in wrong.err


def test_compare_outside_of_a_recipe_keeps_what_it_is_told_to(tiny, tmp_path):
    command = ("compare", "tiny/base", "tiny/sft", "--prompts", "demos.jsonl", "--text", "texts.txt")
    compared = tiny(
        *command, "--reward", "length", "--max-new-tokens", "4", "--out", "kept", "--report", "kept/report.html"
    )
    assert compared.code == 0
    found = json.loads((tmp_path / "kept" / "comparison.json").read_text())
    assert list(found["policies"]) == ["base", "sft"]
    assert {"length", "nll", "kl", "stop"} <= found["policies"]["sft"].keys()
    assert "nll ↓" in compared.out
    assert (tmp_path / "kept" / "report.html").read_text().startswith("<!doctype html>")
    assert tiny("report", "kept").out == "kept/report.html\n"


def test_data_show_tells_prompt_and_supervised_tokens(tiny):
    shown = tiny("data", "show", "tiny", "sft", "--rows", "2")
    assert shown.code == 0
    assert shown.out.count("of them prompt") == 2
    assert "</s>" in shown.out
    assert "32 of 32 rows" in shown.out
    wrong = tiny("data", "show", "tiny", "result")
    assert wrong.code == 2 and "no stage of tiny that trains or makes records is called" in wrong.err


def test_export_writes_the_weights_of_the_artifact(tiny, tmp_path):
    exported = tiny("export", "tiny/sft", "exported")
    assert exported.code == 0
    kept = load_file(next((tmp_path / "runs" / "tiny" / "sft").resolve().glob("model/*.safetensors")))
    written = load_file(tmp_path / "exported" / "model.safetensors")
    assert written.keys() == kept.keys()
    assert all((written[name] == kept[name]).all() for name in kept)
    assert "tiny" in (tmp_path / "exported" / "README.md").read_text()


def test_chat_with_two_keeps_votes_and_goes_on_with_the_better_reply(tiny, tmp_path, monkeypatch):
    lines = iter(["the cat", "no such thing", "w1 the mat", "/u", "2", "the dog", "=", "/quit"])
    monkeypatch.setattr("builtins.input", lambda *_: next(lines))
    chatted = tiny("chat", "tiny/base", "tiny/sft", "--max-new-tokens", "8", "--out", "talk")
    assert chatted.code == 0
    assert "'no such thing': 1, 2: that reply is better" in chatted.out
    assert "1 preferences, 0 demonstrations; 1 even pairs left out" in " ".join(chatted.out.split())
    acts = [json.loads(line) for line in (tmp_path / "talk" / "votes.jsonl").read_text().splitlines()]
    assert [next(iter(act)) for act in acts] == ["vote", "undo", "vote", "vote"]
    first, second = acts[2]["vote"], acts[3]["vote"]
    better = first["item"]["replies"][first["ranks"].index(0)]
    assert first["shown"][1] == first["ranks"].index(0)
    assert {source for reply in first["item"]["replies"] for source in reply["sources"]} == {"tiny/base", "tiny/sft"}
    assert second["item"]["prompt"][1:] == [*better["messages"], {"role": "user", "content": "the dog"}]
    (made,) = (tmp_path / "talk" / "preferences.jsonl").read_text().splitlines()
    assert json.loads(made)["chosen"] == better["messages"]


def test_chat_with_one_approves_and_corrects(tiny, tmp_path, monkeypatch):
    lines = iter(["/u", "the cat", "/1", "the dog", "/w ran off", "\udcff"])  # the last: a byte that is no UTF-8

    def typed(*_):
        for line in lines:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", typed)
    chatted = tiny("chat", "tiny/sft", "--system", "the mat", "--max-new-tokens", "8")
    assert "there is nothing to undo" in chatted.out
    assert "nothing was kept of this line" in " ".join(chatted.out.split())
    kept = (tmp_path / "annotations" / "chat-tiny-sft" / "demonstrations.jsonl").read_text().splitlines()
    turns = json.loads(kept[-1])["messages"]
    assert [turn["content"] for turn in turns[:2]] == ["the mat", "the cat"]
    assert turns[-1] == {"role": "assistant", "content": "ran off"}
    assert tiny("chat", "tiny/sft", "tiny/sft").code == 2
