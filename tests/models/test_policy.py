"""Policies: what is saved is what is loaded, and the reference is the parent (traps 1 and 2)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from align.config import Lora, Model
from align.errors import CheckError, ContractError, StoreError
from align.models.contract import logps
from align.models.loaded import check_handover
from align.models.policy import Policy, from_scratch, load_policy
from align.models.tokenizers import train_tokenizer
from tests.models.conftest import numbers, rows, shake, trained

SHARED = Path(__file__).parents[3] / "shared" / "models"


def near(expected, tolerance=1e-5):
    return pytest.approx(expected, abs=tolerance)


def reference_numbers(policy: Policy) -> list[float]:
    with policy.reference() as model:
        return [value for row in rows() for value in logps(model, row)]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "qwen3", "gemma", "mixtral", "phi3", "gpt_neox"])
def test_full_weights_compute_the_same_after_saving(architecture, store, outside, keep):
    policy = trained(load_policy(outside(architecture), train=True))
    assert numbers(load_policy(keep(policy, "sft"), store=store)) == near(numbers(policy))


def test_bfloat16_trains_in_float32_and_is_saved_in_bfloat16(store, outside, keep):
    policy = trained(load_policy(outside(dtype="bfloat16"), train=True))
    assert policy.model.dtype == torch.float32
    before = numbers(policy)
    made = keep(policy, "sft")
    assert numbers(policy) == before, "saving must leave the weights in training alone"
    assert json.loads((made.path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_policy(made).model.dtype == torch.bfloat16


# Trap 1: the reference is the parent


@pytest.mark.parametrize("handover", ["new", "continue", "merge-first"])
def test_reference_of_an_adapter_on_an_adapter_is_the_parent_alone(handover, store, outside, sft):
    parent = numbers(load_policy(sft, store=store))
    base = numbers(load_policy(outside()))
    lora = None if handover == "continue" else Lora(r=4)
    policy = load_policy(sft, store=store, train=True, lora=lora, adapter=handover)
    assert numbers(policy) == near(parent), "log-ratios are 0 before the first update"
    after = numbers(trained(policy))
    assert reference_numbers(policy) == near(parent)
    assert numbers(policy) == after
    assert max(abs(a - b) for a, b in zip(parent, after, strict=True)) > 0.1
    assert max(abs(a - b) for a, b in zip(parent, base, strict=True)) > 0.1, "the test could not tell parent from base"


@pytest.mark.parametrize("handover", ["new", "merge-first"])
def test_reference_of_full_weights_is_the_parent(handover, store, outside, sft):
    source = outside() if handover == "new" else sft
    policy = load_policy(source, store=store, train=True, adapter=handover)
    parent = numbers(load_policy(source, store=store))
    trained(policy)
    assert reference_numbers(policy) == near(parent)


def test_reference_is_free_of_dropout_and_leaves_the_mode_alone(store, sft):
    policy = load_policy(sft, store=store, train=True, lora=Lora(r=4, dropout=0.5))
    policy.model.train()
    assert reference_numbers(policy) == reference_numbers(policy)
    assert policy.model.training


# The stack: what trains, and where it goes


def test_continue_replaces_the_adapter_and_new_adds_one(store, keep, sft):
    grown = keep(trained(load_policy(sft, store=store, train=True, lora=Lora(r=2))), "grown")
    further = keep(trained(load_policy(sft, store=store, train=True, adapter="continue")), "further")
    assert len(load_policy(grown, store=store).adapters.names) == 2
    assert len(load_policy(further, store=store).adapters.names) == 1
    assert json.loads((grown.path / "base.json").read_text()) == {"artifact": "sft"}
    assert "model" in json.loads((further.path / "base.json").read_text())


@pytest.mark.parametrize(
    "lora, handover", [(Lora(r=2), "new"), (None, "continue"), (Lora(r=2), "merge-first"), (None, "merge-first")]
)
def test_stacks_compute_the_same_after_saving(lora, handover, store, keep, sft):
    policy = trained(load_policy(sft, store=store, train=True, lora=lora, adapter=handover))
    made = keep(policy, "dpo")
    assert numbers(load_policy(made, store=store)) == near(numbers(policy))
    third = trained(load_policy(made, store=store, train=True, lora=Lora(r=2)))
    assert numbers(load_policy(keep(third, "third"), store=store)) == near(numbers(third))


def test_only_this_stages_adapter_trains(store, sft):
    policy = load_policy(sft, store=store, train=True, lora=Lora(r=2))
    assert policy.own == "adapter1"
    assert policy.trainable() and all(".adapter1." in name for name in policy.trainable())
    assert not load_policy(sft, store=store).trainable()


@pytest.mark.parametrize(
    "adapted, lora, handover, message",
    [
        (True, None, "new", "carries an adapter"),
        (False, None, "continue", "needs a policy with an adapter"),
        (False, Lora(), "merge-first", "needs a policy with an adapter"),
        (True, Lora(), "continue", "no effect"),
    ],
)
def test_handovers_that_make_no_sense_are_refused(adapted, lora, handover, message, store, outside, sft):
    with pytest.raises(CheckError, match=message):
        load_policy(sft if adapted else outside(), store=store, train=True, lora=lora, adapter=handover)


def test_four_bit_weights_do_not_train(outside):
    with pytest.raises(CheckError, match="4-bit"):
        load_policy(outside().model_copy(update={"quantize": "4bit"}), train=True)


def test_lora_targets_must_exist(outside):
    with pytest.raises(CheckError, match=r"'q_prj'.*'q_proj'"):
        load_policy(outside(), train=True, lora=Lora(targets=("q_prj",)))


# Trap 2: the wrong adapter, or none


def test_another_stages_adapter_is_noticed(store, keep, sft):
    other = keep(trained(load_policy(sft, store=store, train=True, adapter="continue")), "other")
    shutil.copy(other.path / "adapter" / "adapter_model.safetensors", sft.path / "adapter")
    with pytest.raises(ContractError, match="'sft' saved: its adapters changed"):
        load_policy(sft, store=store)


def test_a_changed_base_is_noticed(store, outside, sft):
    from safetensors.torch import load_file, save_file

    file = Path(outside().path) / "model.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(ContractError, match="'sft' saved: its numbers"):
        load_policy(sft, store=store)


@pytest.mark.parametrize("change, what", [("drop", "missing"), ("add", "unexpected")])
def test_adapter_tensors_must_match(change, what, store, sft):
    from safetensors.torch import load_file, save_file

    file = sft.path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    if change == "drop":
        del tensors[name]
    else:
        tensors["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = tensors[name].clone()
    save_file(tensors, file)
    with pytest.raises(ContractError, match=what):
        load_policy(sft, store=store)


def test_a_lost_base_is_named(store, keep, sft):
    made = keep(trained(load_policy(sft, store=store, train=True, lora=Lora(r=2))), "dpo")
    shutil.rmtree(sft.path)
    with pytest.raises(StoreError, match="its base, artifact sft, is not in the store"):
        load_policy(made, store=store)


# Models from outside, and from nothing


@pytest.fixture
def theirs(store, outside, sft, tmp_path):
    """An adapter folder of PEFT on an outside model, by its relative path."""
    base, policy = outside(), load_policy(sft, store=store)
    policy.adapters.save("adapter0", tmp_path / "peft", base.path)
    policy.tokenizer.save_pretrained(tmp_path / "peft")
    return Model(path="peft")


def test_somebody_elses_adapter_folder(store, keep, sft, theirs, tmp_path):
    assert numbers(load_policy(theirs, base=tmp_path)) == near(numbers(load_policy(sft, store=store)))
    ours = keep(trained(load_policy(theirs, base=tmp_path, train=True, lora=Lora(r=2))), "ours")
    assert len(load_policy(ours, store=store).adapters.names) == 2


@pytest.mark.parametrize("lora, handover", [(None, "continue"), (Lora(r=2), "merge-first"), (None, "merge-first")])
def test_somebody_elses_adapter_is_handed_over_like_our_own(lora, handover, store, keep, theirs, tmp_path):
    policy = trained(load_policy(theirs, base=tmp_path, train=True, lora=lora, adapter=handover))
    again = load_policy(keep(policy, "ours"), store=store)
    assert numbers(again) == near(numbers(policy))
    assert len(again.adapters.names) == (handover == "continue" or lora is not None)


def test_somebody_elses_adapter_never_trains_with_its_base(theirs, tmp_path):
    with pytest.raises(CheckError, match="carries an adapter"):
        check_handover(theirs, None, "new", tmp_path)
    loaded = load_policy(theirs, base=tmp_path)
    with pytest.raises(CheckError, match="carries an adapter"):
        loaded.prepare(None, "new", seed=0)


def test_a_path_that_is_not_there():
    with pytest.raises(ContractError, match="there is no folder"):
        load_policy(Model(path="./nowhere"))


def test_from_scratch_depends_on_the_seed_alone():
    tokenizer = train_tokenizer((), "bytes")
    sizes = {"architecture": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
             "num_attention_heads": 4}  # fmt: skip
    torch.manual_seed(1)
    first = numbers(from_scratch(sizes, tokenizer, seed=7))
    torch.manual_seed(2)
    assert numbers(from_scratch(sizes, tokenizer, seed=7)) == first
    assert numbers(from_scratch(sizes, tokenizer, seed=8)) != first
    with pytest.raises(CheckError, match=r"no size 'hiden_size'. Did you mean 'hidden_size'"):
        from_scratch({"hiden_size": 32}, tokenizer)
    with pytest.raises(CheckError, match="knows no 'lama'"):
        from_scratch({"architecture": "lama"}, tokenizer)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/models")
def test_a_real_model_that_ends_with_bos(store, keep):
    """Its stories end with BOS (1); `</s>` (2) is an untrained row, and padding is `<unk>` (0)."""
    policy = load_policy(Model(path=str(SHARED / "stories260K"), template="raw"), train=True)
    assert (policy.contract.bos, policy.contract.stop, policy.contract.pad) == (1, (1, 2), 0)
    shake(policy.trainable().items(), 0.01)
    again = load_policy(keep(policy, "sft"), store=store)
    assert numbers(again)[:50] == near(numbers(policy)[:50], 1e-4)
    assert again.contract.template == "raw" and again.contract.stop == (1, 2)
