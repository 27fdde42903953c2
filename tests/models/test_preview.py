"""What a model will need, told before its weights are read."""

from __future__ import annotations

import pytest

from align.config import Lora, Model
from align.errors import CheckError
from align.models.policy import load_policy
from align.models.preview import preview


def counted(policy) -> int:
    return sum(p.numel() for p in policy.trainable().values())


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [
        ("llama", "all-linear"),
        ("gpt2", "all-linear"),
        ("mixtral", "all-linear"),
        ("llama", ("self_attn.q_proj", "embed_tokens")),
        ("llama", ("lm_head", "v_proj")),
    ],
)
def test_an_adapter_has_as_many_numbers_as_foretold(architecture, targets, store, outside, tmp_path):
    source, lora = outside(architecture), Lora(r=3, targets=targets)
    told = preview(source, tmp_path, store)
    assert told.adapter_parameters(lora) == counted(load_policy(source, train=True, lora=lora)) > 0


def test_an_inert_target_is_told_without_weights(store, outside, tmp_path):
    with pytest.raises(CheckError, match=r"'q_prj'.*'q_proj'"):
        preview(outside(), tmp_path, store).training_bytes(Lora(targets=("q_prj",)), adapted=False)


def test_an_adapter_that_goes_on_training_is_counted(store, outside, keep, tmp_path):
    base = outside()
    policy = load_policy(base, train=True, lora=Lora(r=4))
    policy.adapters.save("adapter0", tmp_path / "peft", base.path)
    for source in (keep(policy, "sft"), Model(path="peft")):
        told = preview(source, tmp_path, store)
        assert told.adapter == counted(policy)
        assert told.training_bytes(None, adapted=True) == 4 * told.parameters + 16 * counted(policy)
        assert told.saved_bytes(None, adapted=True, checkpoints=2) == counted(policy) * (4 + 2 * 12)


def test_the_best_weights_are_kept_beside_the_checkpoints(store, outside, tmp_path):
    told = preview(outside(), tmp_path, store)
    assert told.saved_bytes(None, False, 2, best=True) == told.parameters * (4 + 2 * 12 + 3 * 4)
