"""What is asked of vLLM and what is read from its answer, with vLLM's own classes. The engine is in tests/gpu."""

from __future__ import annotations

import pytest

from align.config import Sampling
from align.generate import vllm as ours
from align.generate.base import reply_seed
from align.records import Message


def classes(*names: str):
    module = pytest.importorskip("vllm", reason="needs vllm (pip install 'align[vllm]'), a GPU is not needed here")
    return [getattr(module, name) for name in names]


def test_a_request_ends_at_the_contracts_stop_ids_and_at_no_others():
    (params,) = classes("SamplingParams")
    made = params(**ours.decoding(Sampling(temperature=0.7, top_p=0.9, top_k=5), 12, (4, 9), seed=2**62))
    assert made.all_stop_token_ids == {4, 9}
    made.update_from_generation_config({"eos_token_id": [7]}, eos_token_id=8)
    assert made.eos_token_id is None and set(made.stop_token_ids) == {4, 9}
    assert (made.temperature, made.top_p, made.top_k, made.max_tokens, made.seed) == (0.7, 0.9, 5, 12, 2**62)
    assert made.n == 1 and made.num_logprobs == 0
    assert params(**ours.decoding(Sampling(temperature=0), 12, (4,), seed=1)).temperature == 0


def test_a_reply_is_its_ids_and_the_log_probs_of_the_sampled_tokens():
    request, completion = classes("RequestOutput", "CompletionOutput")
    from vllm.logprobs import Logprob

    # where decoding is greedy vLLM may tell the likeliest token beside the sampled one
    logprobs = [{5: Logprob(-0.5, 1)}, {3: Logprob(-0.1, 1), 9: Logprob(-2.5, 2)}]
    only = completion(0, "", [5, 9], -3.0, logprobs, finish_reason="stop", stop_reason=9)
    output = request("0", None, [1, 2], None, [only], finished=True)
    assert ours.reply(output) == ([5, 9], [-0.5, -2.5])


def test_every_reply_has_a_seed_of_its_own():
    prompts = [(Message("user", text),) for text in ("a", "b")]
    seeds = {reply_seed(seed, prompt, i) for seed in (0, 1) for prompt in prompts for i in range(50)}
    assert len(seeds) == 200 and all(0 <= seed < 2**63 for seed in seeds)
    assert reply_seed(1, prompts[0], 3) == reply_seed(1, prompts[0], 3)
