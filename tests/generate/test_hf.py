"""Decoding: the same replies in any company, the model's own log-probs, and no work that nobody needs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, TopKLogitsWarper, TopPLogitsWarper

from align.config import Sampling
from align.errors import CheckError, TrainingError
from align.generate.base import cut, uniforms
from align.generate.hf import HFGenerator, draw
from align.records import Message

CONTEXT = 64
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": CONTEXT, "initializer_range": 0.5,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": {},
    "qwen3": {"head_dim": 16},  # norms of queries and keys
    "qwen2": {},  # biases
    "gpt2": {},  # absolute positions, and dropout in its default config
    "bloom": {},  # ALiBi: no positions
    "mixtral": {"num_local_experts": 4},
    "gemma3_text": {"sliding_window": 8, "head_dim": 8},
    "mamba": {"state_size": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PROMPTS = [(Message("user", LETTERS[:n]),) for n in (3, 9, 20, 5, 12)]


def policy(family: str = "llama", stop=(1, 2), **sizes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SIZES | FAMILIES[family] | sizes))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    chat = SimpleNamespace(
        prompt=lambda messages: [3 + LETTERS.index(letter) for letter in messages[0].content],
        text=lambda ids: " ".join(map(str, ids)),
    )
    return SimpleNamespace(model=model, chat=chat, contract=SimpleNamespace(stop=stop, pad=0, dtype="float32"))


@pytest.mark.parametrize("family", FAMILIES)
def test_replies_are_the_same_alone_and_have_the_models_own_log_probs(family):
    asked, sampling = policy(family), Sampling(max_new_tokens=12, n=2, temperature=1.3)
    together = HFGenerator(asked, batch=64).generate(PROMPTS, sampling, seed=7)
    alone = [HFGenerator(asked, batch=1).generate([p], sampling, seed=7) for p in PROMPTS]
    assert [c.ids for c in together] == [c.ids for made in alone for c in made]
    for completion in together:
        prompt = asked.chat.prompt(PROMPTS[completion.prompt])
        with torch.no_grad():
            logits = asked.model(torch.tensor([prompt + list(completion.ids)])).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 1.3).log_softmax(-1).gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
        assert np.allclose(completion.logps, expected, atol=1e-4)


def test_greedy_decoding_is_what_transformers_generates():
    asked = policy()
    made = HFGenerator(asked).generate(PROMPTS, Sampling(temperature=0, max_new_tokens=15), seed=0)
    for completion in made:
        prompt = torch.tensor([asked.chat.prompt(PROMPTS[completion.prompt])])
        theirs = asked.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=15, eos_token_id=[1, 2]
        )
        assert list(completion.ids) == theirs[0, prompt.shape[1] :].tolist()
        assert set(completion.logps) == {0.0}


def test_order_and_reasons_to_finish():
    asked = policy()
    made = HFGenerator(asked, batch=3).generate(PROMPTS, Sampling(max_new_tokens=12, n=3, temperature=1.3), seed=1)
    assert [(c.prompt, c.index) for c in made] == [(p, i) for p in range(5) for i in range(3)]
    for c in made:
        stopped = [i in (1, 2) for i in c.ids]
        assert not any(stopped[:-1])
        assert (c.finish == "stop") == stopped[-1]
        assert c.finish == "stop" or len(c.ids) == 12
        assert c.text == " ".join(map(str, c.ids[:-1] if stopped[-1] else c.ids))
    assert len({c.ids for c in made if c.prompt == 0}) > 1, "each reply has its own stream"


@pytest.mark.parametrize("temperature", [0, 1.3])
def test_a_reply_is_written_to_the_text_that_ends_it_and_its_beginning_is_as_ever(temperature):
    asked, sampling = policy(stop=()), Sampling(max_new_tokens=20, n=2, temperature=temperature)
    whole = HFGenerator(asked).generate(PROMPTS, sampling, seed=7)
    until = (" ".join(map(str, whole[0].ids[3:5])), str(whole[4].ids[7]), "none")
    together = HFGenerator(asked).generate(PROMPTS, sampling, 7, until=until)
    alone = [HFGenerator(asked, batch=1).generate([p], sampling, 7, until=until) for p in PROMPTS]
    assert [c.ids for c in together] == [c.ids for made in alone for c in made]
    assert sum(len(c.ids) for c in together) < sum(len(c.ids) for c in whole)
    for ended, full in zip(together, whole, strict=True):
        assert ended.ids == full.ids[: len(ended.ids)] and cut(ended.text, until) == cut(full.text, until)
        found = [any(end in asked.chat.text(ended.ids[:n]) for end in until) for n in range(1, len(ended.ids) + 1)]
        assert not any(found[:-1]) and (found[-1] or len(ended.ids) == 20)
        assert ended.finish == ("stop" if found[-1] else "length")


def test_a_text_is_cut_before_the_first_that_is_complete():
    assert cut("one two three", ("three", "two")) == "one "
    assert cut("abcd", ("bcd", "c")) == "ab", "as if it had been written no further than abc"
    assert cut("abcd", ("x",)) == cut("abcd", ()) == "abcd"


def test_a_reply_ends_where_the_context_does():
    asked = policy(stop=())
    made = HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=60), seed=0)
    assert [len(c.ids) for c in made] == [min(60, CONTEXT - n) for n in (3, 9, 20, 5, 12)]
    assert {c.finish for c in made} == {"length"}
    with pytest.raises(CheckError, match="prompt 0 leaves no room to reply: 64 tokens in a context of 64"):
        HFGenerator(asked).generate([(Message("user", "a" * CONTEXT),)], Sampling(), seed=0)
    with pytest.raises(CheckError, match="prompt 0 has no tokens"):
        HFGenerator(asked).generate([(Message("user", ""),)], Sampling(), seed=0)


def watched(model):
    """The shapes of what is embedded and of what is projected in every forward pass; the latter must lie together, or
    torch copies the weight for each row."""
    read, projected = [], []
    model.get_input_embeddings().register_forward_hook(lambda _, given, made: read.append(tuple(made.shape[:2])))
    model.get_output_embeddings().register_forward_hook(
        lambda _, given, made: projected.append(made.shape[1] if given[0].is_contiguous() else "apart")
    )
    return read, projected


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_prompts_are_read_once_finished_rows_leave_and_last_positions_alone_are_projected(family):
    asked = policy(family)
    shapes, projected = watched(asked.model)
    made = HFGenerator(asked, batch=40).generate(PROMPTS, Sampling(max_new_tokens=20, n=8, temperature=1.5), seed=3)
    lengths = [len(c.ids) for c in made]
    assert shapes[0] == (5, 20), "five prompts, though forty replies are to follow"
    assert set(projected) == {1}
    steps = shapes[2:] if family == "llama" else shapes[1:]  # a first token is fed in both ways, to compare them
    assert [width for _, width in steps] == [1] * (max(lengths) - 1)
    for step, (rows, _) in enumerate(steps, 1):
        running = sum(length > step for length in lengths)
        assert running <= rows <= running * 8 / 7 + 1


def test_prompts_are_read_by_length_in_parts_of_so_many_tokens():
    asked = policy()
    shapes, _ = watched(asked.model)
    whole = HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=9), seed=0)
    shapes.clear()
    parts = HFGenerator(asked, max_tokens=24).generate(PROMPTS, Sampling(max_new_tokens=9), seed=0)
    assert shapes[:3] == [(1, 20), (2, 12), (2, 5)]
    assert [c.ids for c in parts] == [c.ids for c in whole]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rows_that_leave_make_room_for_others(family):
    asked, prompts = policy(family, stop=range(1, 12)), [(Message("user", LETTERS[i : i + 9]),) for i in range(18)]
    alone = HFGenerator(asked, batch=1).generate(prompts, Sampling(max_new_tokens=30), seed=0)
    lengths = [len(c.ids) for c in alone]
    assert max(lengths) > 3 * min(lengths)
    shapes, _ = watched(asked.model)
    together = HFGenerator(asked, batch=4).generate(prompts, Sampling(max_new_tokens=30), seed=0)
    assert [c.ids for c in together] == [c.ids for c in alone]
    fed = [rows for rows, width in shapes if width == 1]
    proof = 4 if family == "llama" else 0
    assert sum(fed) - proof <= sum(n - 1 for n in lengths) + 4 * max(lengths), "idle only once nobody waits"
    assert sum(fed[: len(fed) // 2]) == 4 * (len(fed) // 2)


def test_a_block_of_another_form_is_left_to_the_models_own_forward():
    asked = policy()
    plain = HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=10), seed=0)
    attention = asked.model.model.layers[1].self_attn
    forward = attention.forward
    attention.forward = lambda **given: tuple(None if part is None else 2 * part for part in forward(**given))
    doubled = HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=10), seed=0)
    attention.forward = forward
    with torch.no_grad():
        attention.o_proj.weight.mul_(2)
    expected = HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=10), seed=0)
    assert [c.ids for c in doubled] == [c.ids for c in expected] != [c.ids for c in plain]


def test_dropout_is_off_and_training_goes_on_as_it_was():
    asked = policy("gpt2")
    quiet = HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=10), seed=0)
    asked.model.train()
    assert HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=10), seed=0) == quiet
    assert asked.model.training


def test_adapters_are_heard():
    from peft import LoraConfig, get_peft_model

    asked = policy()
    plain = HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=10), seed=0)
    adapted = get_peft_model(asked.model, LoraConfig(r=4, init_lora_weights=False, target_modules="all-linear"))
    asked.model = adapted
    tuned = HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=10), seed=0)
    assert [c.ids for c in tuned] != [c.ids for c in plain]
    with adapted.disable_adapter():
        assert [c.ids for c in HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=10), seed=0)] == [
            c.ids for c in plain
        ]


def test_tokens_are_decoded_without_flex_attention():
    """It would be compiled anew for each of them."""
    asked, used = policy(), set()
    expected = HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=9), seed=0)
    asked.model.set_attn_implementation("flex_attention")
    asked.model.register_forward_pre_hook(lambda model, _: used.add(model.config._attn_implementation))
    found = HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=9), seed=0)
    assert [c.ids for c in found] == [c.ids for c in expected]
    assert used == {"sdpa"}
    assert asked.model.config._attn_implementation == "flex_attention"


def test_broken_weights_are_an_error():
    asked = policy()
    torch.nn.init.constant_(asked.model.lm_head.weight, float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        HFGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=3), seed=0)


def test_progress_is_told_in_replies_and_may_stop():
    told = []
    sampling = Sampling(max_new_tokens=2, n=2)
    HFGenerator(policy(), batch=4).generate(PROMPTS, sampling, 0, lambda *seen: told.append(seen))
    assert told == sorted(set(told)) and told[-1] == (10, 10) and len(told) > 2

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        HFGenerator(policy(), batch=4).generate(PROMPTS, sampling, 0, stop)


def test_evenly_spaced_uniforms_draw_tokens_by_their_probability():
    probability = torch.tensor([0.5, 0.0, 0.2, 0.3])
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    token, logp = draw(probability.log().expand(1000, -1), uniform, Sampling())
    assert token.bincount().tolist() == [500, 0, 200, 300]
    assert torch.allclose(logp.exp(), probability[token])


@pytest.mark.parametrize(
    "sampling", [Sampling(top_k=5), Sampling(top_p=0.7), Sampling(top_k=9, top_p=0.5, temperature=2)]
)
def test_truncation_is_that_of_transformers(sampling):
    logits = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)) * 3
    expected = logits / sampling.temperature
    if sampling.top_k:
        expected = TopKLogitsWarper(sampling.top_k)(None, expected)
    if sampling.top_p < 1:
        expected = TopPLogitsWarper(sampling.top_p)(None, expected)
    expected = expected.log_softmax(-1)
    for share in (0.0, 0.3, 0.6, 0.99999):
        token, logp = draw(logits, torch.full((50,), share, dtype=torch.float64), sampling)
        assert torch.allclose(logp, expected.gather(-1, token[:, None])[:, 0], atol=1e-5)
        assert torch.isfinite(logp).all()


def test_random_streams_belong_to_seed_prompt_and_reply():
    stream = uniforms(1, PROMPTS[0], 0, 8)
    assert (stream == uniforms(1, (Message("user", "abc"),), 0, 8)).all()
    assert (uniforms(1, PROMPTS[0], 0, 4) == stream[:4]).all(), "a longer limit goes on from a shorter"
    for other in (uniforms(2, PROMPTS[0], 0, 8), uniforms(1, PROMPTS[1], 0, 8), uniforms(1, PROMPTS[0], 1, 8)):
        assert not np.isin(other, stream).any()
