"""vLLM beside a policy: the policy's own tokens and log-probs, whatever its weights were before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from align.config import Lora, Sampling
from align.generate import vllm as ours
from align.generate.hf import HFGenerator
from align.models.policy import Policy, from_scratch
from align.records import Message

SIZES = {
    "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256,
    "max_position_embeddings": 256, "initializer_range": 0.2,
}  # fmt: skip
PROMPTS = [(Message("user", text),) for text in ("ab", "the cat sat on the mat", "why?")]


@pytest.fixture
def policy(byte_tokenizer: Any) -> Iterator[Policy]:
    pytest.importorskip("vllm", reason="needs vllm (pip install 'align[vllm]')")
    made = from_scratch(SIZES, byte_tokenizer, template="raw", seed=0)
    made.model.cuda()
    yield made


def changed(policy: Policy, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with torch.no_grad():
        for p in policy.model.parameters():
            p.copy_(change(p))


def test_greedy_replies_follow_the_weights(policy: Policy) -> None:
    sampling = Sampling(temperature=0, max_new_tokens=16)
    before = ours.VLLMGenerator(policy, 0.3).generate(PROMPTS, sampling, seed=0)
    assert [c.ids for c in before] == [c.ids for c in HFGenerator(policy).generate(PROMPTS, sampling, seed=0)]
    changed(policy, lambda p: p.roll(1, 0))
    after = ours.VLLMGenerator(policy, 0.3).generate(PROMPTS, sampling, seed=0)
    assert [c.ids for c in after] == [c.ids for c in HFGenerator(policy).generate(PROMPTS, sampling, seed=0)]
    assert [c.ids for c in after] != [c.ids for c in before]
    assert len(ours._engines) == 1


def test_adapters_are_heard_and_a_seed_draws_the_same_reply_in_any_company(policy: Policy) -> None:
    policy.adapters.add(Lora(r=4), seed=0)
    changed(policy, lambda p: p + 0.05 * torch.ones_like(p) * p.std())
    sampling = Sampling(temperature=0.8, max_new_tokens=16, n=3)
    generator = ours.VLLMGenerator(policy, 0.3)
    together = generator.generate(PROMPTS, sampling, seed=1)  # holds its first reply against the policy
    assert generator.generate(PROMPTS[1:2], sampling, seed=1)[0].ids == together[3].ids
    assert len({c.ids for c in together}) == 9


def test_it_gives_its_memory_back_while_it_sleeps(policy: Policy) -> None:
    ours.VLLMGenerator(policy, 0.3).generate(PROMPTS, Sampling(max_new_tokens=4), seed=0)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    assert free > 0.9 * total
