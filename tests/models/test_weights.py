"""Weights: missing tensors are fatal, damaged files are noticed, embeddings come back as they were (trap 24)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from align.errors import ContractError, DependencyError
from align.models.policy import load_policy
from align.models.weights import headers, load_model, scan
from tests.models.conftest import numbers


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("model.norm.weight"), "1 missing tensors .*: model.norm.weight"),
        (lambda t: t.update({"model.extra.weight": torch.ones(2)}), "1 unexpected tensors .*: model.extra.weight"),
        (lambda t: t.update({"model.norm.weight": torch.ones(3)}), "1 mismatched tensors .*model.norm.weight"),
    ],
)
def test_tensors_must_match_the_model(change, message, outside):
    file = Path(outside().path) / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ContractError, match=message):
        load_model(file.parent, "float32")


def test_no_model_here(tmp_path):
    with pytest.raises(ContractError, match="no model can be loaded from here"):
        load_model(tmp_path, "float32")


def test_four_bits_need_cuda(outside):
    with pytest.raises(DependencyError, match="bitsandbytes"):
        load_model(outside().path, "float32", quantize="4bit")


def elements(folder: Path) -> int:
    return sum(torch.Size(tensor["shape"]).numel() for tensor in headers(folder).values())


def test_scan_counts_every_number(outside):
    folder = Path(outside().path)
    held = elements(folder)
    scan(folder, held)
    with pytest.raises(ContractError, match="numbers were saved"):
        scan(folder, held + 1)


def test_scan_finds_empty_tensors(tmp_path):
    """What sharded training saves when nobody gathered the shards."""
    save_file({"a": torch.ones(4), "b": torch.ones(0, 4)}, tmp_path / "model.safetensors")
    with pytest.raises(ContractError, match=r"tensor b of shape \[0, 4\] has 0 bytes"):
        scan(tmp_path, 4)


def test_scan_finds_truncated_files(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(64)}, file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ContractError, match="its header speaks of"):
        scan(tmp_path, 64)


def test_tied_embeddings_are_saved_once_and_tied_again(outside, keep):
    policy = load_policy(outside(tie_word_embeddings=True), train=True)
    made = keep(policy, "sft")
    assert "lm_head.weight" not in headers(made.path / "model")
    found = load_policy(made).model
    assert found.get_output_embeddings().weight is found.get_input_embeddings().weight


def test_embeddings_that_came_apart_are_both_saved(outside, keep):
    """Under a config that ties them, loading would overwrite one by the other."""
    policy = load_policy(outside(tie_word_embeddings=True), train=True)
    outputs = policy.model.get_output_embeddings()
    outputs.weight = torch.nn.Parameter(outputs.weight.detach() + 0.5 * torch.randn_like(outputs.weight))
    made = keep(policy, "sft")
    assert json.loads((made.path / "model" / "config.json").read_text())["tie_word_embeddings"] is False
    assert numbers(load_policy(made)) == pytest.approx(numbers(policy), abs=1e-5)


def test_embeddings_that_are_the_same_but_not_tied_stay_apart(outside, keep):
    policy = load_policy(outside(tie_word_embeddings=False), train=True)
    policy.model.get_output_embeddings().weight.data.copy_(policy.model.get_input_embeddings().weight.data)
    found = load_policy(keep(policy, "sft")).model
    assert found.get_output_embeddings().weight is not found.get_input_embeddings().weight
