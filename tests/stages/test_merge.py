"""Merged weights compute what the stack computed (trap 24)."""

from __future__ import annotations

import pytest
import torch

from align.config import Lora, Model
from align.errors import CheckError, ContractError
from align.machine import Machine
from align.models.adapters import Adapters
from align.models.policy import load_policy
from align.stage import Context, PolicyRef
from align.stages.merge import Merge
from tests.models.conftest import keep, numbers, outside, store, trained

__all__ = ["keep", "outside", "store"]  # fixtures


def context(store, source) -> Context:
    work = store.workspace("merged")
    return Context(
        stage="merged", type="merge", key="merged", seed=0, inputs={"dpo": source},
        keys={"dpo": getattr(source, "key", "")}, store=store,
        machine=Machine(device="cpu"), work=work, out=work / "out",
    )  # fmt: skip


@pytest.fixture
def stage() -> Merge:
    return Merge(policy=PolicyRef("dpo"))


@pytest.fixture
def stacked(store, keep):
    """Makes two adapters on a model."""

    def make(source, *targets: str):
        lora = Lora(r=2, targets=targets or "all-linear")
        sft = keep(trained(load_policy(source, train=True, lora=lora)), "sft")
        return keep(trained(load_policy(sft, store=store, train=True, lora=lora)), "dpo")

    return make


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_merged_computes_what_the_stack_computed(architecture, stage, stacked, store, outside):
    source = stacked(outside(architecture))
    expected = numbers(load_policy(source, store=store))
    ctx = context(store, source)
    stage.check(ctx)
    metrics = stage.run(ctx)
    assert metrics["adapters"] == 2 and metrics["probe_difference"] < 1e-5
    merged = load_policy(store.commit("merged", "policy", metrics, {}))
    assert not merged.adapters
    assert numbers(merged) == pytest.approx(expected, abs=1e-5)


def test_an_adapter_on_a_tied_output_layer_leaves_the_input_alone(stacked, store, outside):
    source = stacked(outside(tie_word_embeddings=True), "lm_head", "q_proj")
    policy = load_policy(source, store=store)
    expected, inputs = numbers(policy), policy.model.get_input_embeddings().weight.clone()
    policy.merge()
    assert torch.equal(policy.model.get_input_embeddings().weight, inputs)
    assert numbers(policy) == pytest.approx(expected, abs=1e-5)


def test_a_merge_that_damages_weights_is_noticed(stacked, store, outside, monkeypatch):
    policy = load_policy(stacked(outside()), store=store)
    monkeypatch.setattr(Adapters, "merge", lambda self: self.model.model.norm.weight.data.mul_(1.5))
    with pytest.raises(ContractError, match="merged, the model computes other numbers"):
        policy.merge()


def test_nothing_to_merge(stage, store, outside, keep):
    full = keep(load_policy(outside(), train=True), "full")
    with pytest.raises(CheckError, match="no adapter to merge"):
        stage.check(context(store, full))


def test_four_bit_weights_are_refused_before_they_are_read(stage, store, outside, keep):
    policy = trained(load_policy(outside(), train=True, lora=Lora(r=2)))
    policy.contract = policy.contract.model_copy(update={"quantize": "4bit"})
    with pytest.raises(CheckError, match="4-bit weights"):
        stage.check(context(store, keep(policy, "narrow")))


def test_somebody_elses_adapter_is_merged(stage, store, outside, tmp_path):
    base = outside()
    policy = trained(load_policy(base, train=True, lora=Lora(r=2)))
    policy.adapters.save("adapter0", tmp_path / "peft", base.path)
    ctx = context(store, None)
    ctx.inputs["dpo"] = Model(path=str(tmp_path / "peft"))
    stage.check(ctx)
    metrics = stage.run(ctx)
    merged = load_policy(store.commit("merged", "policy", metrics, {}))
    assert numbers(merged) == pytest.approx(numbers(policy), abs=1e-5)
