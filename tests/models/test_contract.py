"""Contracts: what ends a reply, what fills a row, and what is noticed when it changed (traps 4 and 12)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from align.errors import ContractError
from align.models.contract import Contract, choose_pad, difference, stop_ids, tokenizer_hash, written_end
from align.models.policy import load_policy
from align.models.tokenizers import train_tokenizer

CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


@pytest.fixture
def tokenizer():
    """Bytes with `<s>` 0, `</s>` 1, `<pad>` 2, `<unk>` 3."""
    return train_tokenizer((), "bytes")


def model(generation=None, config=None):
    text = SimpleNamespace(eos_token_id=config)
    made = SimpleNamespace(get_text_config=lambda: text)
    return SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=generation), config=made)


# Trap 4: the pad id is no stop id


def test_a_pad_token_of_its_own_is_kept(tokenizer):
    assert choose_pad(tokenizer, (1,), rows=260) == 2


def test_padding_with_the_end_token_gives_way_to_a_special_token_made_for_it(tokenizer):
    tokenizer.add_special_tokens({"pad_token": "</s>"})
    assert choose_pad(tokenizer, (1,), rows=260) == 2
    assert tokenizer.pad_token == "<pad>"


@pytest.mark.parametrize("reserved", ["<|vision_pad|>", "<|reserved_special_token_0|>", "<unused0>"])
def test_reserved_tokens_come_before_the_unknown_one(tokenizer, reserved):
    tokenizer.pad_token = "</s>"
    tokenizer.add_tokens([reserved], special_tokens=True)
    assert choose_pad(tokenizer, (1, 2), rows=261) == 260


def test_then_the_unknown_token(tokenizer):
    tokenizer.pad_token = "</s>"
    assert choose_pad(tokenizer, (1, 2), rows=260) == 3


def test_then_a_new_token_in_a_spare_row(tokenizer):
    tokenizer.pad_token = tokenizer.unk_token = "</s>"
    assert choose_pad(tokenizer, (1, 2), rows=264) == 260
    assert tokenizer.pad_token_id == 260


def test_with_no_spare_row_any_id_is_filler_and_embeddings_do_not_grow(tokenizer):
    tokenizer.pad_token = tokenizer.unk_token = "</s>"
    assert choose_pad(tokenizer, (0, 1, 2), rows=260) == 3
    assert tokenizer.pad_token is None
    assert len(tokenizer) == 260


# What ends a reply


def test_stop_ids_begin_with_the_generation_configs(tokenizer):
    assert stop_ids(model([7, 2], 9), tokenizer) == (7, 2, 9, 1)
    assert stop_ids(model(5), tokenizer) == (5, 1)
    assert stop_ids(model(), tokenizer, ["a"]) == (tokenizer.encode("a", add_special_tokens=False)[0], 1)


def test_a_stop_text_is_one_token(tokenizer):
    with pytest.raises(ContractError, match=r"stop 'ab' is 2 tokens"):
        stop_ids(model(), tokenizer, ["ab"])


def test_no_end_at_all_is_refused(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(ContractError, match="no token ends a reply"):
        stop_ids(model(), tokenizer)


def test_the_end_that_a_template_writes_comes_first(outside, tokenizer):
    """A base model says `</s>`; its chats end with `<|im_end|>`, which is what must be trained and stop a reply."""
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    assert written_end(tokenizer, CHATML) == "<|im_end|>"
    assert written_end(tokenizer, "{% for m in messages %}{{ m['content'] }}\n{% endfor %}") is None
    assert written_end(tokenizer, "plain") is None
    policy = load_policy(outside(vocab_size=264))
    assert Contract.of(policy.model, tokenizer, "x", CHATML).stop == (260, 1)


def test_bos_is_what_the_tokenizer_adds_by_itself(outside):
    policy = load_policy(outside())
    assert policy.contract.bos == 0
    policy.tokenizer.backend_tokenizer.post_processor = None
    assert Contract.of(policy.model, policy.tokenizer, "x", "plain").bos is None


# What is noticed


@pytest.fixture
def signed(outside):
    """A policy, and its contract as the stage `sft` signs it."""
    policy = load_policy(outside())
    return policy, policy.contract.signed("sft", (), policy.tokenizer, policy.measure)


def verify(policy, contract, **changes):
    given = {"tokenizer": policy.tokenizer, "dtype": "float32", "adapters": (), "measure": policy.measure} | changes
    contract.verify(place="here", **given)


def test_the_same_model_passes(signed):
    policy, contract = signed
    verify(policy, contract)
    verify(policy, Contract.model_validate_json(contract.model_dump_json()))


def test_another_vocabulary(signed):
    policy, contract = signed
    policy.tokenizer.add_tokens(["zebra"])
    with pytest.raises(ContractError, match=r"here: .* 'sft' saved: the vocabulary"):
        verify(policy, contract)


def test_another_way_to_split_texts(signed):
    policy, contract = signed
    policy.tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(ContractError, match="the tokenizer reads 'The quick"):
        verify(policy, contract)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dtype": "bfloat16"}, "bfloat16, saved as float32"),
        ({"adapters": ("abc",)}, "its adapters changed"),
        ({"measure": lambda ids: [float("nan")] * (len(ids) - 1)}, "off by nan"),
    ],
)
def test_another_model(signed, changes, message):
    with pytest.raises(ContractError, match=message):
        verify(*signed, **changes)


def test_probes_reach_the_whole_vocabulary(signed):
    """An embedding that no probe text touches changed all the same."""
    policy, contract = signed
    text_ids = {i for probe in contract.probes if probe.text is not None for i in probe.ids}
    untouched = next(i for i in contract.probes[-1].ids if i not in text_ids)
    policy.model.get_input_embeddings().weight.data[untouched] += 1
    with pytest.raises(ContractError, match="a row of ids"):
        verify(policy, contract)


def test_the_choice_of_a_pad_token_is_no_change(tokenizer):
    before = tokenizer_hash(tokenizer)
    tokenizer.pad_token = "<unk>"
    assert tokenizer_hash(tokenizer) == before


def test_agreement_names_both_sides(signed):
    _, contract = signed
    assert contract.agreement(contract) == []
    (line,) = contract.agreement(contract.model_copy(update={"maker": "dpo", "template": "raw"}))
    assert line == "template differs: 'plain' (sft), 'raw' (dpo)"


def test_difference_is_relative_above_one():
    assert difference([0.5, 0.5], [0.5, 0.6]) == pytest.approx(0.05)
    assert difference([10.0, 10.0], [10.0, 11.0]) == pytest.approx(0.05)
