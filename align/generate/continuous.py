"""Decoding by transformers' continuous batching: keys and values in pages, rows that join and leave at every token.

What it adds to `hf`: a finished row is replaced at once, so the batch stays full where replies differ much in length.
What it lacks: a random stream for each reply. Tokens come from the device's one stream, so the same seed gives other
replies when other prompts stand beside, and ranks do not draw what one process would.

Tested on a CPU; on a GPU it never ran so far.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from align.config import Sampling
from align.errors import TrainingError
from align.generate.base import Progress
from align.generate.engine import Asked, Engine, Replies
from align.models.weights import quiet
from align.records import Messages

PAGE, FLASH_PAGE = 32, 256
"""Tokens of one page; FlashAttention's paged kernels take no shorter ones."""
PREFILL = 512
"""Tokens of one forward pass at most: dense attention keeps a mask of so many rows by all that is cached."""
CHILD = "__child#"
"""What transformers puts between a request's name and the number of a further reply."""
WAIT = 1.0
"""Seconds after which a silent engine is looked after."""


class ContinuousGenerator(Engine):
    """Answers with a policy, at most `batch` replies side by side."""

    def written(
        self, prompts: Sequence[Messages], asked: Asked, sampling: Sampling, seed: int, progress: Progress | None
    ) -> Replies:
        times = sampling.n if sampling.temperature else 1  # greedy replies to one prompt are all the same
        made = {}
        for name, output in self._outputs(asked, sampling, times, seed, progress).items():
            prompt, _, child = name.partition(CHILD)
            for i in range(sampling.n // times):
                made[int(prompt), i + (int(child) + 1 if child else 0)] = output.generated_tokens, output.logprobs
        return made

    def _outputs(
        self, asked: Asked, sampling: Sampling, times: int, seed: int, progress: Progress | None
    ) -> dict[str, Any]:
        """What the engine wrote, under the prompt's number; further replies to it are its children."""
        model: Any = self.policy.model
        contract = self.policy.contract
        made: dict[str, Any] = {}
        with _as_called(model), quiet(), torch.random.fork_rng(_devices(model)):
            manager = model.init_continuous_batching(
                _decoding(sampling, times, contract.stop, contract.pad), self._room(asked, times, seed)
            )
            manager.start()
            try:
                for i, (ids, limit) in enumerate(asked):
                    manager.add_request(ids, str(i), max_new_tokens=limit, eos_token_id=list(contract.stop))
                while len(made) < len(asked) * times:
                    output = _next(manager)
                    made[output.request_id] = output
                    if progress:
                        progress(len(made) * sampling.n // times, len(asked) * sampling.n)
            finally:
                manager.stop(hard_stop=True)
                manager.destroy()
        return made

    def _room(self, asked: Asked, times: int, seed: int) -> ContinuousBatchingConfig:
        """Pages for `batch` of the longest rows, and not what memory there is: training needs the rest."""
        rows = min(self.batch, len(asked) * times)
        flash = self.policy.model.dtype != torch.float32
        page = FLASH_PAGE if flash else PAGE
        pages = max(math.ceil((len(ids) + limit) / page) + 1 for ids, limit in asked)
        return ContinuousBatchingConfig(
            page_size=page,
            num_blocks=rows * pages,
            max_batch_tokens=max(PREFILL, rows),
            max_requests_per_batch=rows,
            return_logprobs=True,
            seed=seed,
            auto_switch_to_flash=flash,
        )


def _decoding(sampling: Sampling, times: int, stop: Sequence[int], pad: int) -> GenerationConfig:
    """The settings in transformers' words; nothing of what a model's own generation config says."""
    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    config = GenerationConfig(eos_token_id=list(stop), pad_token_id=pad, **(drawn if sampling.temperature else {}))
    config.num_return_sequences = times
    return config


def _next(manager: Any) -> Any:
    """The next complete reply. Raises TrainingError where none will come."""
    while True:
        output = manager.get_result(timeout=WAIT)
        if output is not None and output.error is None:
            return output
        if output is not None or not manager.is_running():
            reason = output.error if output is not None else manager.background_thread_status.fatal_error
            raise TrainingError(f"continuous batching failed: {reason}. Set the machine's generator to hf")


@contextmanager
def _as_called(model: Any) -> Iterator[None]:
    """Within it the model is as the caller would find it: not training, its weights as the autocast around it has them.

    The engine runs in a thread of its own, which no autocast reaches, and caches in the type of the weights.
    """
    kind, training = model.device.type, model.training
    narrow = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype
    wide = {p: p.data for p in model.parameters() if p.dtype == torch.float32 and model.dtype != narrow}
    for parameter, data in wide.items():
        parameter.data = data.to(narrow)
    try:
        model.eval()
        yield
    finally:
        model.train(training)
        for parameter, data in wide.items():
            parameter.data = data


def _devices(model: Any) -> list[int]:
    """The GPU whose random numbers are used, if one is."""
    return [model.device.index or 0] if model.device.type == "cuda" else []
