"""Conversations that go on: the same replies as if they were read from the beginning, for fewer tokens."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from align.config import Sampling
from align.generate.hf import HFGenerator
from align.records import Message

SIZES = {
    "vocab_size": 29, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 256, "initializer_range": 0.5,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": {},
    "gpt2": {},
    "bloom": {},
    "mixtral": {"num_local_experts": 4},
}
FORGETFUL = {"gemma3_text": {"sliding_window": 8, "head_dim": 8}, "mamba": {"state_size": 8}}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PROMPTS = ["abc", "abcdefghi", "zyxwvutsrqponmlkjihg", "abcde", "mnbvcxzlkjhg"]
EXAMPLE = "thequickbrownfoxjumpsoverthelazydog" * 2


def policy(family="llama"):
    """A random model that reads the letters of all turns, a stop id behind each turn."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SIZES | (FAMILIES | FORGETFUL)[family]))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    chat = SimpleNamespace(
        prompt=lambda turns: [*(i for turn in turns for i in (*(3 + LETTERS.index(x) for x in turn.content), 2))],
        text=lambda ids: "".join(LETTERS[i - 3] for i in ids if i > 2),
    )
    return SimpleNamespace(model=model, chat=chat, contract=SimpleNamespace(stop=(0, 1, 2), pad=0))


def watched(asked):
    """Counts (rows, tokens) of every forward pass."""
    shapes, forward = [], asked.model.forward

    def counting(**given):
        shapes.append(tuple(given["input_ids"].shape))
        return forward(**given)

    counting.__signature__ = inspect.signature(forward)
    asked.model.forward = counting
    return shapes


def conversation(generator, sampling, begin=""):
    """Replies, then what is said to "why" and to "and how so": of every call the completions."""
    turns, made = [(Message("user", begin + text),) for text in PROMPTS], []
    for seed, request in enumerate(("why", "andhowso", "")):
        made.append(generator.generate(turns, sampling, seed))
        said = [c.text for c in made[-1]]
        turns = [(*t, Message("assistant", s), Message("user", request)) for t, s in zip(turns, said, strict=True)]
    return made


@pytest.mark.parametrize(("family", "temperature"), [("llama", 0.0), *((family, 1.5) for family in FAMILIES)])
def test_what_follows_is_the_same_as_if_all_were_read_again(family, temperature):
    sampling = Sampling(max_new_tokens=14, temperature=temperature)
    for begin in ("", EXAMPLE):
        plain = conversation(HFGenerator(policy(family)), sampling, begin)
        kept = conversation(HFGenerator(policy(family), keep=True), sampling, begin)
        assert len({len(c.ids) for c in plain[0]}) > 1, "rows leave the batch one after another"
        for one, other in zip(plain, kept, strict=True):
            assert [c.ids for c in one] == [c.ids for c in other]
            for c, d in zip(one, other, strict=True):
                assert np.allclose(c.logps, d.logps, atol=1e-4)


def test_only_what_is_new_is_computed():
    asked = policy()
    shapes = watched(asked)
    conversation(HFGenerator(asked, keep=True), Sampling(max_new_tokens=14))
    read = [shape for shape in shapes if shape[1] > 1]
    # After a reply: what ended it, which nobody read yet, the request, and the end of that.
    assert read == [(5, 20 + 1), (5, 1 + len("why") + 1), (5, 1 + len("andhowso") + 1)]


def test_what_is_new_is_read_in_parts_of_so_many_tokens():
    asked, sampling = policy(), Sampling(max_new_tokens=14)
    shapes = watched(asked)
    parts = conversation(HFGenerator(asked, keep=True, max_tokens=26), sampling)
    read = [shape for shape in shapes if shape[1] > 1]
    assert read == [(1, 21), (2, 13), (2, 6), (5, 5), (2, 10), (2, 10), (1, 10)]
    whole = conversation(HFGenerator(asked, keep=True), sampling)
    assert [[c.ids for c in made] for made in parts] == [[c.ids for c in made] for made in whole]


def test_what_all_prompts_begin_with_is_computed_once():
    asked = policy()
    shapes = watched(asked)
    conversation(HFGenerator(asked, keep=True), Sampling(max_new_tokens=14), EXAMPLE)
    assert shapes[:2] == [(1, len(EXAMPLE)), (5, 20 + 1)]
    assert sum(tokens > len(EXAMPLE) for rows, tokens in shapes) == 0


def test_prompts_that_have_nothing_in_common_are_read_whole():
    asked = policy()
    shapes = watched(asked)
    generator, sampling = HFGenerator(asked, keep=True), Sampling(max_new_tokens=2, temperature=0)
    generator.generate([(Message("user", "abcdefgh"),)], sampling, 0)
    generator.generate([(Message("user", "zbcdefgh"),), (Message("user", "abcdefgz"),)], sampling, 0)
    generator.generate([(Message("user", "abcdefgh"),)], sampling, 0)
    assert [shape for shape in shapes if shape[1] > 2] == [(1, 9), (2, 9)], "the longest row to be read counts"
    assert shapes[-2] == (1, 2), "`abcdefg` was kept: the last letter and the end"


def test_replies_to_one_prompt_go_on_each_from_its_own():
    sampling = Sampling(max_new_tokens=9, n=3)
    made = []
    for keep in (False, True):
        generator = HFGenerator(policy(), keep=keep)
        replies = generator.generate([(Message("user", text),) for text in PROMPTS], sampling, 0)
        turns = [
            (Message("user", PROMPTS[c.prompt]), Message("assistant", c.text), Message("user", "why")) for c in replies
        ]
        made.append(generator.generate(turns, Sampling(max_new_tokens=9), 1))
    assert [c.ids for c in made[0]] == [c.ids for c in made[1]]


@pytest.mark.parametrize("family", FORGETFUL)
def test_models_that_do_not_cache_every_token_read_all_again(family):
    asked = policy(family)
    shapes, sampling = watched(asked), Sampling(max_new_tokens=5, temperature=0)
    conversation(HFGenerator(asked), sampling)
    plain = list(shapes)
    conversation(HFGenerator(asked, keep=True), sampling)
    assert shapes == plain * 2
