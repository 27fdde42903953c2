"""Killed without warning, again and again, a recipe ends with the weights of an undisturbed run."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from align.models.policy import from_scratch
from align.models.tokenizers import train_tokenizer
from align.models.weights import save_model

RECIPE = """
name: killed
models: {base: {path: base}}
data: {pairs: {path: pairs.jsonl}}
stages:
  sft: {stage: sft, policy: $base, data: $pairs, epochs: 3, max_length: 128, checkpoint: {every: 2}, optim: {lr: 0.001}}
  reward: {stage: reward_model, policy: $sft, data: $pairs, max_length: 128, checkpoint: {every: 2}}
  dpo: {stage: dpo, policy: $sft, data: $pairs, max_length: 128, lora: {r: 4}, checkpoint: {every: 2}}
  ppo:
    {stage: ppo, policy: $sft, reward: $reward, doubtful_reward: allow, prompts: $pairs, steps: 8, minibatches: 2,
     sampling: {max_new_tokens: 16}, optim: {lr: 0.0001, batch_size: 8}, checkpoint: {every: 2}}
"""


def prepare(folder: Path) -> None:
    tokenizer = train_tokenizer((), "bytes", template=None)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    policy = from_scratch(sizes | {"max_position_embeddings": 128}, tokenizer, template="plain")
    save_model(policy.model, folder / "base", "float32")
    tokenizer.save_pretrained(folder / "base")
    rows = [{"prompt": f"count {i}", "chosen": f"{i} and {i + 1}", "rejected": f"no {i * 7}"} for i in range(320)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "killed.yaml").write_text(RECIPE)


def start(folder: Path, store: str) -> subprocess.Popen:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-m", "align", "run", "killed.yaml", "--store", store],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, text=True,
    )  # fmt: skip


def weights(store: Path) -> dict[str, str]:
    return {
        f"{link.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for link in sorted((store / "killed").iterdir())
        for file in sorted(link.rglob("*.safetensors"))
    }


def worker_of(process: subprocess.Popen) -> int | None:
    """The worker of a run, while it lives."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(entry.read_text().rpartition(")")[2].split()[1]) == process.pid:
                return int(entry.parent.name)
        except OSError:
            continue
    return None


@pytest.mark.slow
def test_ten_kills_change_no_weight(tmp_path):
    """Trap 15: the command, or the worker beneath it, is killed at ten random moments: importing, training,
    sampling, saving."""
    prepare(tmp_path)
    began = time.monotonic()
    straight = start(tmp_path, "straight")
    said, _ = straight.communicate(timeout=600)
    whole = time.monotonic() - began
    assert straight.returncode == 0, said
    expected = weights(tmp_path / "straight")
    assert len(expected) == 4  # two policies, a reward model, an adapter
    chance, kills = random.Random(0), 0
    for _ in range(60):
        process = start(tmp_path, "killed")
        worker, deadline = None, time.monotonic() + 60
        while worker is None and process.poll() is None and time.monotonic() < deadline:
            worker = worker_of(process)
            time.sleep(0.1)
        try:
            process.wait(timeout=whole * chance.uniform(0.1, 0.6) if kills < 10 else 600)
        except subprocess.TimeoutExpired:
            os.kill(worker if worker and chance.random() < 0.5 else process.pid, signal.SIGKILL)
            kills += 1
            process.wait(timeout=60)
        if process.returncode == 0:
            break
    assert process.returncode == 0 and kills >= 5
    assert weights(tmp_path / "killed") == expected


@pytest.mark.slow
def test_two_processes_make_the_artifacts_of_one(tmp_path):
    """`--processes 2` through the command line: ranks launched over gloo, the same weights up to rounding."""
    import torch
    from safetensors.torch import load_file

    prepare(tmp_path)
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for store, processes in (("one", "1"), ("two", "2")):
        done = subprocess.run(
            [sys.executable, "-m", "align", "run", "killed.yaml", "--store", store, "--processes", processes],
            cwd=tmp_path, env=environment | {"ALIGN_DEVICE": "cpu"}, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    for stage in ("sft", "reward", "dpo"):
        one, two = (tmp_path / store / "killed" / stage for store in ("one", "two"))
        files = [file.relative_to(one.resolve()) for file in one.resolve().rglob("*.safetensors")]
        assert files
        for file in files:
            ours, theirs = load_file(one / file), load_file(two / file)
            for name in ours:
                torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-3)
