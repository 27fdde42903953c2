"""Decoding in slots, as on a GPU but for the graph: the same replies, whoever leaves and enters."""

from itertools import pairwise

import pytest
import torch
from peft import LoraConfig, get_peft_model

from align.config import Sampling
from align.generate import slots
from align.generate.hf import HFGenerator
from align.generate.slots import Slots, fit
from align.generate.state import Reader, Row
from align.records import Message
from tests.generate import test_prefix
from tests.generate.test_hf import LETTERS, PROMPTS, policy

MANY = [*PROMPTS, *((Message("user", LETTERS[i : i + 9]),) for i in range(13))]


@pytest.fixture
def slotted(monkeypatch):
    """Makes the CPU a place where slots pay; (slots, columns) of every step that is then made ready to be repeated."""
    made, captured = [], Slots._captured

    def counting(self):
        made.append((self.size, self.columns))
        return captured(self)

    monkeypatch.setattr(Slots, "_captured", counting)
    return lambda: (monkeypatch.setattr(slots, "DEVICE", "cpu"), made)[1]


def tried(model, prompt=range(3, 20), limit=10):
    return fit(Reader(model, 0, 64), Row(0, 0, list(prompt), limit, None))


@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen2", "gpt2"])
@pytest.mark.parametrize("batch", [64, 4])
def test_replies_are_those_of_a_batch_that_grows(slotted, family, batch):
    asked, sampling = policy(family, stop=range(1, 12)), Sampling(max_new_tokens=30, n=2, temperature=1.3)
    expected = HFGenerator(asked, batch=batch).generate(MANY, sampling, seed=7)
    made = slotted()
    found = HFGenerator(asked, batch=batch).generate(MANY, sampling, seed=7)
    assert [c.ids for c in found] == [c.ids for c in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-4)
    trial, first, *later = (size for size, _ in made)
    assert (trial, first) == (2, min(batch, 36))
    assert all(small * 4 <= large for large, small in pairwise([first, *later])), "slots go where a quarter is left"
    assert later or batch == 4


def test_slots_grow_with_the_longest_row(slotted, monkeypatch):
    monkeypatch.setattr(slots, "ROOM", 16)
    asked, sampling = policy(stop=()), Sampling(max_new_tokens=40)
    expected = HFGenerator(asked).generate(PROMPTS, sampling, seed=0)
    made = slotted()
    assert [c.ids for c in HFGenerator(asked).generate(PROMPTS, sampling, seed=0)] == [c.ids for c in expected]
    assert [columns for _, columns in made] == [32, 32, 64], "prompts of 20 at most, then 12 tokens more, then all 60"


def test_who_is_done_where_the_context_ends_waits_there(slotted):
    """Learned positions have none behind the last."""
    asked, full = policy("gpt2", stop=()), (Message("user", (LETTERS * 3)[:50]),)
    prompts = [full, *((Message("user", LETTERS[i : i + 6]),) for i in range(20))]
    expected = HFGenerator(asked).generate(prompts, Sampling(max_new_tokens=60), seed=0)
    assert [len(c.ids) for c in expected] == [14] + [58] * 20
    assert slotted() == []
    found = HFGenerator(asked).generate(prompts, Sampling(max_new_tokens=60), seed=0)
    assert [c.ids for c in found] == [c.ids for c in expected]


def test_conversations_go_on_from_slots(slotted):
    sampling = Sampling(temperature=1.2, max_new_tokens=9)
    expected = test_prefix.conversation(HFGenerator(test_prefix.policy(), keep=True), sampling)
    made = slotted()
    asked = test_prefix.policy()
    shapes = test_prefix.watched(asked)
    found = test_prefix.conversation(HFGenerator(asked, keep=True), sampling)
    assert [[c.ids for c in replies] for replies in found] == [[c.ids for c in replies] for replies in expected]
    assert made
    assert any(1 < width < 12 for _, width in shapes), "only what is new of a prompt was read"


def test_adapters_are_heard(slotted):
    asked = policy()
    asked.model = get_peft_model(
        asked.model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    ).eval()
    expected = HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=9), seed=0)
    slotted()
    assert tried(asked.model)
    assert [c.ids for c in HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=9), seed=0)] == [
        c.ids for c in expected
    ]


def test_a_narrower_type_is_held_to_its_own_rounding(slotted):
    slotted()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert tried(policy().model)


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}},
        ),  # asks how long rows are
        ("bloom", {}),  # takes no positions
        ("gemma3_text", {}),
        ("mamba", {}),
    ],
)
@torch.no_grad()
def test_other_models_are_left_to_a_batch_that_grows(slotted, family, sizes):
    slotted()
    assert tried(policy().model)
    assert not tried(policy(family, **sizes).model)


@torch.no_grad()
def test_a_trial_finds_wrong_numbers_out(slotted, monkeypatch):
    slotted()
    model, update = policy().model, slots._Placed.update
    monkeypatch.setattr(slots._Placed, "update", lambda self, k, v, *_: update(self, k.roll(1, 0), v))
    assert not tried(model)
    assert not tried(model, limit=-15), "no room for two tokens"
