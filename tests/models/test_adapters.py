"""Adapters on one backbone train as they would on models of their own (trap 31)."""

from __future__ import annotations

import pytest
import torch

from align.config import Lora
from align.errors import CheckError
from align.models.contract import logps
from align.models.policy import Policy, load_policy
from tests.models.conftest import numbers, rows, shake, trained


def loss_of(policy: Policy) -> torch.Tensor:
    total = torch.zeros(())
    for row in rows(3):
        ids = torch.tensor([row])
        total = total + policy.model(input_ids=ids, labels=ids).loss
    return total


def gradients(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in policy.trainable().items() if p.grad is not None}


def assert_same(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys() and expected
    for name in expected:
        assert expected[name].abs().max() > 0, f"{name}: a gradient of zero proves nothing"
        torch.testing.assert_close(found[name], expected[name], atol=tolerance, rtol=1e-4)


@pytest.fixture
def stacked(store, sft):
    """Makes the same policy again and again: a trained adapter on an inherited one."""
    return lambda: trained(load_policy(sft, store=store, train=True, lora=Lora(r=2)), seed=3)


def test_gradients_of_a_stack_equal_those_on_merged_weights(store, keep, sft, stacked):
    merged = load_policy(sft, store=store)
    merged.merge()
    flat = load_policy(keep(merged, "flat"), store=store, train=True, lora=Lora(r=2))
    trained(flat, seed=3)
    policy = stacked()
    loss_of(policy).backward()
    loss_of(flat).backward()
    renamed = {name.replace("adapter0", "adapter1"): gradient for name, gradient in gradients(flat).items()}
    assert_same(gradients(policy), renamed)
    inherited = [p for name, p in policy.model.named_parameters() if ".adapter0." in name or "lora" not in name]
    assert inherited and all(p.grad is None for p in inherited)


@pytest.mark.parametrize("handover", ["new", "continue"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_reference_between_forward_and_backward_changes_no_gradient(handover, checkpointing, store, sft):
    def policy():
        lora = Lora(r=2) if handover == "new" else None
        made = trained(load_policy(sft, store=store, train=True, lora=lora, adapter=handover), seed=3)
        if checkpointing:
            made.adapters.save_memory()
        made.model.train()
        return made

    alone, switched = policy(), policy()
    loss_of(alone).backward()
    loss = loss_of(switched)
    with switched.reference() as model:
        logps(model, rows(1)[0])
    loss.backward()
    assert_same(gradients(switched), gradients(alone))
    for made in (switched, alone):  # and once more, after the switch
        loss_of(made).backward()
    assert_same(gradients(switched), gradients(alone))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_adapters_that_train_in_turn_equal_two_models(checkpointing, store, sft):
    both = load_policy(sft, store=store, train=True, lora=Lora(r=2), seed=1)
    both.adapters.add(Lora(r=3), seed=2)
    both.adapters.train("adapter1", "adapter2")
    shake(((n, p) for n, p in both.trainable().items() if ".adapter1." in n), seed=3)
    shake(((n, p) for n, p in both.trainable().items() if ".adapter2." in n), seed=4)
    first = trained(load_policy(sft, store=store, train=True, lora=Lora(r=2), seed=1), seed=3)
    second = trained(load_policy(sft, store=store, train=True, lora=Lora(r=3), seed=2), seed=4)
    for policy in (both, first, second):
        if checkpointing:
            policy.adapters.save_memory()
        policy.model.train()
    losses = []
    for name in ("adapter1", "adapter2"):
        with both.adapters.active(["adapter0", name]):
            losses.append(loss_of(both))
    sum(losses).backward()
    for policy in (first, second):
        loss_of(policy).backward()
    expected = gradients(first) | {n.replace("adapter1", "adapter2"): g for n, g in gradients(second).items()}
    assert_same(gradients(both), expected)


def test_switching_and_switching_back_changes_nothing(stacked):
    policy = stacked()
    before, training = numbers(policy), policy.trainable().keys()
    with policy.adapters.active([]):
        assert numbers(policy) != before
        with policy.adapters.active(["adapter1"]):
            pass
        assert policy.trainable().keys() == training
    assert numbers(policy) == before
    assert policy.trainable().keys() == training


def test_a_new_adapter_computes_zero_and_depends_on_its_seed_alone(store, sft):
    parent = numbers(load_policy(sft, store=store))
    torch.manual_seed(1)
    first = load_policy(sft, store=store, train=True, lora=Lora(r=2), seed=5)
    torch.manual_seed(2)
    second = load_policy(sft, store=store, train=True, lora=Lora(r=2), seed=5)
    assert numbers(first) == parent
    assert first.adapters.hashes() == second.adapters.hashes()
    other = load_policy(sft, store=store, train=True, lora=Lora(r=2), seed=6)
    assert other.adapters.hashes() != first.adapters.hashes()


def test_alpha_is_twice_the_rank_unless_given(outside):
    import math

    def scaling(lora: Lora) -> float:
        policy = load_policy(outside(), train=True, lora=lora)
        return next(m.scaling["adapter0"] for m in policy.model.modules() if hasattr(m, "lora_A"))

    assert scaling(Lora(r=4)) == 2.0
    assert scaling(Lora(r=4, alpha=4)) == 1.0
    assert scaling(Lora(r=4, alpha=4, rslora=True)) == pytest.approx(4 / math.sqrt(4))


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_on_the_embeddings_trains_and_is_saved_and_merged(tied, store, outside, keep):
    lora = Lora(r=2, targets=("embed_tokens", "q_proj"))
    policy = load_policy(outside(tie_word_embeddings=tied), store=store, train=True, lora=lora)
    assert sum("lora_embedding_" in name for name in policy.trainable()) == 2
    made = load_policy(keep(trained(policy), "sft"), store=store)
    assert numbers(made) == pytest.approx(numbers(policy), abs=1e-5)
    made.merge()
    assert numbers(made) == pytest.approx(numbers(policy), abs=1e-5)


def test_a_target_is_whole_components_of_a_name(outside):
    with pytest.raises(CheckError, match="no module is called 'proj'"):
        load_policy(outside(), train=True, lora=Lora(targets=("q_proj", "proj")))
    assert load_policy(outside(), train=True, lora=Lora(targets=("self_attn.q_proj",))).trainable()


def test_merged_weights_are_those_of_a_merged_model_and_the_model_is_left_as_it_was(store, stacked):
    policy, merged = stacked(), stacked()
    before = {name: p.clone() for name, p in policy.model.named_parameters()}
    found = dict(policy.adapters.merged_weights())
    merged.adapters.merge()
    expected = dict(merged.model.named_parameters())
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)
    assert sum(not torch.equal(w, before.get(n.replace(".weight", ".base_layer.weight"), w)) for n, w in found.items())
    assert all(torch.equal(p, before[name]) for name, p in policy.model.named_parameters())


def test_adapters_that_are_no_sum_with_the_weight_have_no_merged_weights(store, outside):
    policy = load_policy(outside(), store=store, train=True, lora=Lora(r=2))
    layer = next(m for m in policy.model.modules() if hasattr(m, "lora_variant"))
    layer.lora_variant["adapter0"] = object()
    with pytest.raises(CheckError, match="such as DoRA"):
        dict(policy.adapters.merged_weights())
