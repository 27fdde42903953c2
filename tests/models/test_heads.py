"""Reward models: the head is in the file, and scores are the same after a reload (trap 3)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from align.config import Lora, Model
from align.data.tree import Reply, Tree, collate
from align.errors import ContractError
from align.models import heads
from align.models.heads import load_reward
from align.models.policy import load_policy
from align.models.weights import headers
from tests.models.conftest import numbers, rows, trained


def near(expected):
    return pytest.approx(expected, abs=1e-5)


@pytest.fixture
def full(store, outside, keep):
    return keep(trained(load_reward(outside(), store=store, train=True)), "full", "reward")


@pytest.fixture
def adapted(store, keep, sft):
    return keep(trained(load_reward(sft, store=store, train=True, lora=Lora(r=2))), "adapted", "reward", policy=sft)


def test_the_head_is_in_the_file(full, adapted):
    assert headers(full.path / "model")["score.weight"]["shape"] == [1, 32]
    assert headers(adapted.path)["weight"]["shape"] == [1, 32]


@pytest.mark.parametrize("lora", [None, Lora(r=2)], ids=["full", "adapted"])
def test_a_head_that_does_not_reach_the_disk_is_noticed(lora, store, outside, tmp_path, monkeypatch):
    """As where a library saves what it takes for an adapter's tensors, or for a language model's."""
    reward = load_reward(outside(), store=store, train=True, lora=lora)
    monkeypatch.setattr(heads, "headers", lambda folder: {k: v for k, v in headers(folder).items() if "norm" in k})
    with pytest.raises(ContractError, match="the score head was not saved"):
        reward.save(tmp_path / "made", "reward")


def test_a_fresh_process_computes_the_same(store, full, adapted, sft):
    loaded = [load_reward(full, store=store), load_reward(adapted, store=store), load_policy(sft, store=store)]
    expected = [number for made in loaded for number in numbers(made)]
    script = (
        "import json; from pathlib import Path; from align.store import Store;"
        "from align.models.policy import load_policy; from align.models.heads import load_reward;"
        "from tests.models.conftest import numbers;"
        f"store = Store(Path({str(store.root)!r}));"
        "made = [load_reward(store.find(k), store=store) for k in ('full', 'adapted')];"
        "made.append(load_policy(store.find('sft'), store=store));"
        "print(json.dumps([n for m in made for n in numbers(m)]))"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert json.loads(found.stdout.splitlines()[-1]) == near(expected)


@pytest.mark.parametrize("lora, handover", [(None, "merge-first"), (None, "continue"), (Lora(r=2), "new")])
def test_scores_are_the_same_after_saving(lora, handover, store, keep, sft):
    reward = trained(load_reward(sft, store=store, train=True, lora=lora, adapter=handover))
    assert "score.weight" in reward.trainable()
    made = keep(reward, "reward", "reward", policy=sft)
    assert numbers(load_reward(made, store=store)) == near(numbers(reward))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_head_beside_an_adapter_trains_in_float32(dtype, store, outside, keep):
    reward = trained(load_reward(outside(dtype=dtype), train=True, lora=Lora(r=2)))
    assert reward.score_head.weight.dtype == torch.float32
    found = load_reward(keep(reward, "reward", "reward"), store=store)
    assert torch.equal(found.score_head.weight, reward.score_head.weight)


def test_the_score_is_read_at_the_replys_last_token(full):
    """Transformers' own classifier reads it there too; a pad id within the text must not move it."""
    reward = load_reward(full)
    row = [*rows(1)[0], reward.contract.pad, 9]
    ours = reward.measure(row)[0]
    hidden = reward.model.base_model(input_ids=torch.tensor([row])).last_hidden_state[0, -1]
    assert ours == near(float(hidden @ reward.model.score.weight[0]))
    trees = [Tree("", np.array(r[:4]), (Reply(np.array(r[4:])),)) for r in (row, rows(2)[1])]
    batch = collate(trees, "plain", reward.contract.pad)
    assert reward.module(batch).tolist() == near([ours, reward.measure(rows(2)[1])[0]])


def test_the_new_head_depends_on_the_seed_alone(outside):
    heads = [load_reward(outside(), train=True, seed=seed).score_head.weight for seed in (3, 3, 4)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_transformers_reads_it_as_a_classifier(full):
    from transformers import AutoModelForSequenceClassification

    reward = load_reward(full)
    theirs = AutoModelForSequenceClassification.from_pretrained(full.path / "model")
    row = rows(1)[0]
    assert theirs(input_ids=torch.tensor([row])).logits[0, 0].item() == near(reward.measure(row)[0])
    assert numbers(load_reward(Model(path=str(full.path / "model")))) == near(numbers(reward))


def test_a_lost_head_is_noticed(store, full, adapted):
    (adapted.path / "head.safetensors").unlink()
    with pytest.raises(ContractError, match="score head is missing"):
        load_reward(adapted, store=store)


def test_another_head_is_noticed(store, adapted):
    from safetensors.torch import load_file, save_file

    file = adapted.path / "head.safetensors"
    save_file({name: -tensor for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ContractError, match="'adapted' saved: its numbers"):
        load_reward(adapted, store=store)


def test_a_language_model_is_no_reward_model(store, outside, sft):
    for source in (outside(), sft):
        with pytest.raises(ContractError, match="no score head"):
            load_reward(source, store=store)
