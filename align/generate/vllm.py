"""Decoding with vLLM in this process, beside the policy that it writes for.

The engine starts empty and gets the policy's weights, adapters added, before every generation; in between it sleeps and
gives its memory back, so that rollouts and updates share a GPU. So one engine a process serves every policy of its
shape. Each reply has a seed of its own, and what prompts begin with is cached within a generation.

Written against the sources of vLLM 0.33; on a GPU it never ran so far.
"""

from __future__ import annotations

import copy
import gc
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from align.config import Sampling
from align.errors import CheckError
from align.generate.base import Progress, reply_seed
from align.generate.engine import Asked, Engine, Replies
from align.records import Messages

if TYPE_CHECKING:
    from align.models.policy import Policy

_engines: dict[tuple[str, str, float], Any] = {}
"""The engine of this process, by the config, the dtype and the memory that it was started with."""


class VLLMGenerator(Engine):
    """Answers with a policy on CUDA, as many replies side by side as fit into `memory`, a share of the GPU's."""

    def __init__(self, policy: Policy, memory: float, batch: int = 64, max_tokens: int = 1024):
        """batch, max_tokens: for questions, which the policy itself reads."""
        if policy.contract.quantize:
            raise CheckError("vllm can't be given 4-bit weights; set the machine's generator to hf")
        super().__init__(policy, batch, max_tokens)
        self.memory = memory
        if _ranks() > 1:  # they start together, for they agree on the memory; one may be asked nothing in the end
            _engine(policy, memory)

    def written(
        self, prompts: Sequence[Messages], asked: Asked, sampling: Sampling, seed: int, progress: Progress | None
    ) -> Replies:
        from vllm import SamplingParams  # pyright: ignore[reportAttributeAccessIssue]

        places = [(i, j) for i in range(len(asked)) for j in range(sampling.n)]
        stop = self.policy.contract.stop
        params = [
            SamplingParams(**decoding(sampling, asked[i][1], stop, reply_seed(seed, prompts[i], j))) for i, j in places
        ]
        engine = _engine(self.policy, self.memory)
        _wake(engine, self.policy)
        try:
            outputs = _run(engine, [asked[i][0] for i, _ in places], params, progress)
        finally:
            engine.sleep(level=2)
        return {place: reply(output) for place, output in zip(places, outputs, strict=True)}


def decoding(sampling: Sampling, limit: int, stop: Sequence[int], seed: int) -> dict[str, Any]:
    """One reply's settings in vLLM's words: it ends at the contract's stop ids and at no others."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": limit,
        "seed": seed,
        "stop_token_ids": list(stop),
        "ignore_eos": True,
        "logprobs": 0,  # that of the sampled token alone
        "detokenize": False,
    }


def reply(output: Any) -> tuple[list[int], list[float]]:
    """The ids, with the stop id where there is one, and their log-probs, of a vLLM `RequestOutput` of one reply."""
    (only,) = output.outputs
    ids = list(only.token_ids)
    return ids, [at[i].logprob for i, at in zip(ids, only.logprobs, strict=True)]


def _run(engine: Any, prompts: list[list[int]], params: list[Any], progress: Progress | None) -> list[Any]:
    """The outputs, in the order of the prompts; if `progress` raises, the engine forgets what is left."""
    names = engine.enqueue([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    done: list[Any] = []
    try:
        while engine.llm_engine.has_unfinished_requests():
            complete = [output for output in engine.llm_engine.step() if output.finished]
            done += complete
            if progress and complete:
                progress(len(done), len(prompts))
    except BaseException:
        engine.llm_engine.abort_request(names, internal=True)
        raise
    return sorted(done, key=lambda output: int(output.request_id))  # numbered as they were enqueued


def _engine(policy: Policy, memory: float) -> Any:
    """The engine for models of this policy's shape, asleep. One of another shape makes room for it."""
    key = (policy.model.config.to_json_string(), policy.contract.dtype, memory)
    if key not in _engines:
        for old in _engines.values():
            old.llm_engine.engine_core.shutdown()
        _engines.clear()
        gc.collect()
        _engines[key] = _started(policy, memory)
    return _engines[key]


def _started(policy: Policy, memory: float) -> Any:
    # Within this process, so that weights are handed over as they are, without a copy through a pipe.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM  # pyright: ignore[reportAttributeAccessIssue]

    config: Any = copy.deepcopy(policy.model.config)
    config.architectures = [type(policy.model).__name__]
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng([policy.model.device.index or 0]):
        config.save_pretrained(folder)
        engine = LLM(
            folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            generation_config="vllm",  # nothing of the model's own
            dtype=policy.contract.dtype,
            max_model_len=-1,  # the context, or as much of it as the memory holds
            gpu_memory_utilization=memory,
            enable_prefix_caching=True,
            enable_sleep_mode=True,
            logprobs_mode="processed_logprobs",  # of the distribution that tokens are drawn from
            distributed_executor_backend="external_launcher" if _ranks() > 1 else "uni",  # each rank has its own engine
        )
    engine.sleep(level=2)
    return engine


def _ranks() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def _wake(engine: Any, policy: Policy) -> None:
    """Memory for weights, the policy's weights, then memory for the cache: the least that is needed at once."""
    torch.cuda.empty_cache()
    engine.wake_up(tags=["weights"])
    engine.collective_rpc("reload_weights", kwargs={"weights_iterator": _weights(policy)})
    engine.wake_up(tags=["kv_cache"])
    engine.reset_prefix_cache()


def _weights(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """The policy's weights under the names of its checkpoints, which is what vLLM reads."""
    from transformers.core_model_loading import revert_weight_conversion

    yield from revert_weight_conversion(policy.model, dict(policy.adapters.merged_weights())).items()
