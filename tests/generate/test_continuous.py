"""Continuous batching: the tokens of our own loop, the model's own log-probs, and no reply that another one wrote."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from align.config import Sampling
from align.errors import TrainingError
from align.generate.continuous import ContinuousGenerator
from align.generate.hf import HFGenerator
from tests.generate.test_hf import CONTEXT, PROMPTS, policy


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_greedy_replies_are_those_of_our_own_loop(family):
    sizes = {"num_key_value_heads": 4} if family == "gpt2" else {}
    asked, sampling = policy(family, **sizes), Sampling(max_new_tokens=CONTEXT, temperature=0, n=2)
    ours = HFGenerator(asked).generate(PROMPTS, sampling, seed=0)
    assert ContinuousGenerator(asked, batch=3).generate(PROMPTS, sampling, seed=0) == ours
    assert {c.finish for c in ours} == {"stop", "length"} or family != "llama"


def test_log_probs_are_those_of_the_distribution_that_was_drawn_from():
    asked, sampling = policy(), Sampling(max_new_tokens=12, n=3, temperature=1.3, top_k=9, top_p=0.8)
    asked.model.train()
    made = ContinuousGenerator(asked, batch=4).generate(PROMPTS, sampling, seed=5)
    assert asked.model.training
    assert [(c.prompt, c.index) for c in made] == [(i, j) for i in range(len(PROMPTS)) for j in range(3)]
    for completion in made:
        prompt = asked.chat.prompt(PROMPTS[completion.prompt])
        with torch.no_grad():
            logits = asked.model(torch.tensor([prompt + list(completion.ids)])).logits[0, len(prompt) - 1 : -1] / 1.3
        logits[logits < logits.topk(9).values[:, -1:]] = -torch.inf
        order = logits.sort(descending=True)
        before = order.values.softmax(-1).cumsum(-1) - order.values.softmax(-1)
        logits.scatter_(-1, order.indices, order.values.masked_fill(before >= 0.8, -torch.inf))
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]
        assert np.allclose(completion.logps, expected, atol=1e-4)


def test_replies_to_one_prompt_are_drawn_apart_and_a_seed_draws_them_again():
    """The first tokens of many replies, which share one prefill, against the model's own probabilities."""
    asked, sampling = policy(), Sampling(max_new_tokens=1, n=150)
    generator = ContinuousGenerator(asked, batch=64)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    made = generator.generate(PROMPTS[:1], sampling, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    seen = Counter(c.ids[0] for c in made)
    with torch.no_grad():
        expected = asked.model(torch.tensor([asked.chat.prompt(PROMPTS[0])])).logits[0, -1].softmax(-1).double().numpy()
    likely = [i for i in np.argsort(-expected) if expected[i] * 150 >= 5]
    counts = [seen[int(i)] for i in likely]
    counts, wanted = [*counts, 150 - sum(counts)], [*expected[likely], 1 - expected[likely].sum()]
    assert chisquare(counts, np.array(wanted) * 150).pvalue > 1e-4
    assert [c.ids for c in generator.generate(PROMPTS[:1], sampling, seed=1)] == [c.ids for c in made]


def test_weights_have_the_type_of_the_autocast_around_and_are_left_as_they_were():
    asked = policy()
    asked.contract.dtype = "bfloat16"
    weights = {name: p.data_ptr() for name, p in asked.model.named_parameters()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = ContinuousGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=8), seed=0)
    assert {name: p.data_ptr() for name, p in asked.model.named_parameters()} == weights
    assert {p.dtype for p in asked.model.parameters()} == {torch.float32}
    ids = [asked.chat.prompt(PROMPTS[0]) + list(made[0].ids)]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logps = asked.model(torch.tensor(ids)).logits[0, 2:-1].float().log_softmax(-1)
    own = logps.gather(-1, torch.tensor(made[0].ids)[:, None])[:, 0]
    assert np.abs(own.numpy() - np.array(made[0].logps)).mean() < 0.1


def test_a_model_that_the_engine_computes_otherwise_is_found_out():
    """ALiBi's biases are not in the engine's masks."""
    asked = policy("bloom")
    with pytest.raises(TrainingError, match=r"disagree about its tokens|continuous batching failed"):
        ContinuousGenerator(asked).generate(PROMPTS[2:3], Sampling(max_new_tokens=8), seed=0)


def test_broken_weights_are_an_error():
    asked = policy()
    torch.nn.init.constant_(asked.model.lm_head.weight, float("nan"))
    with pytest.raises(TrainingError, match="et the machine's generator to hf"):
        ContinuousGenerator(asked).generate(PROMPTS, Sampling(max_new_tokens=3), seed=0)


def test_progress_is_told_in_replies_and_may_stop():
    told, sampling = [], Sampling(max_new_tokens=2, n=2)
    ContinuousGenerator(policy()).generate(PROMPTS, sampling, 0, lambda *seen: told.append(seen))
    assert told == [(i, 10) for i in range(1, 11)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ContinuousGenerator(policy()).generate(PROMPTS, sampling, 0, stop)
