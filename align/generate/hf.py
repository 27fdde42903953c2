"""Decoding with a Hugging Face model in this process.

Our own loop instead of `model.generate`, because a step of alignment needs what that does not give: a prompt is read
once for its replies that begin together, finished rows leave the batch and others enter, each reply has its own random
stream, and the log-probabilities of the sampling distribution come with the tokens. Keys and values grow in place
(transformers copies all of them at every token, which on a CPU is a third of the time), and on a CPU most models are
decoded by `align.models.decoder`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from align.config import Sampling
from align.data.tree import Layout
from align.data.trie import WIDTH
from align.errors import TrainingError
from align.generate.base import Completion, Progress, uniforms
from align.generate.choices import choose
from align.generate.prefix import Prefixes, keeps_all
from align.generate.slots import Slots, fit
from align.generate.state import Reader, Row, State, joined
from align.generate.tokens import completion, ending, prompts_of, truncated
from align.models.attention import decoding, layout_for
from align.records import Messages

if TYPE_CHECKING:
    from align.models.policy import Policy

DROP_SHARE = 8
"""Finished rows leave once they are an eighth of the batch: leaving copies what is cached of the others."""


class HFGenerator:
    """Answers with a policy, `batch` replies side by side; it reads in micro-batches of `max_tokens`.

    A reply ends at a stop id, after `max_new_tokens`, or where the model's context ends (finish reason `length`).
    keep: prompts go on from those of the call before, and the policy stays as it is, so what was computed of the last
    batch is kept until the next.
    """

    def __init__(self, policy: Policy, batch: int = 64, max_tokens: int = 1024, keep: bool = False):
        self.policy, self.batch, self.max_tokens = policy, batch, max_tokens
        self._prefixes = Prefixes() if keep and keeps_all(policy.model) else None

    def generate(
        self, prompts: Sequence[Messages], sampling: Sampling, seed: int, progress: Progress | None = None,
        until: Sequence[str] = (),
    ) -> list[Completion]:  # fmt: skip
        ended = ending(self.policy, until) if until else None
        rows = [
            Row(i, j, ids, limit, uniforms(seed, prompts[i], j, limit if sampling.temperature else 0), ended)
            for i, (ids, limit) in enumerate(prompts_of(self.policy, prompts, sampling.max_new_tokens))
            for j in range(sampling.n)
        ]
        model, stop = self.policy.model, frozenset(self.policy.contract.stop)
        training = model.training
        model.eval()
        try:
            with decoding(model):
                reader = Reader(model, self.policy.contract.pad, self.max_tokens)
                for batch in self._batches(rows, reader):
                    for _ in decode(reader, batch, self.batch, sampling, stop, self._prefixes):
                        if progress:
                            progress(sum(row.done for row in rows), len(rows))
        finally:
            model.train(training)
        return [completion(self.policy, row.prompt, row.index, row.ids, row.logps, row.cut) for row in rows]

    def _batches(self, rows: list[Row], reader: Reader) -> Iterator[list[Row]]:
        """Rows by length of their prompt, replies to one prompt together.

        All at once where some may enter for others that leave; else as many as go side by side, and no two lengths
        where padding can't be masked out.
        """
        ordered = sorted(rows, key=lambda r: (-len(r.prompt_ids), r.prompt, r.index))
        if reader.keeps_all and self._prefixes is None:
            yield ordered
            return
        equal, batch = not _attention_only(reader.model), list[Row]()
        for row in ordered:
            if len(batch) == self.batch or (equal and batch and len(row.prompt_ids) != len(batch[0].prompt_ids)):
                yield batch
                batch = []
            batch.append(row)
        yield batch

    def choose(
        self, questions: Sequence[Messages], options: Sequence[str], progress: Progress | None = None
    ) -> np.ndarray:
        return choose(self.policy, questions, options, self.max_tokens, self._layout, progress)

    @cached_property
    def _layout(self) -> Layout:
        """Whether the model can be trusted with questions that share their beginnings in a row."""
        config = self.policy.model.config
        return layout_for(config, config._attn_implementation, min(self.max_tokens, WIDTH))[0]


@torch.no_grad()
def decode(
    reader: Reader, rows: Sequence[Row], size: int, sampling: Sampling, stop: Collection[int], prefixes: Prefixes | None
) -> Iterator[None]:
    """Writes the rows, `size` side by side, the first ones first. Yields whenever some have left.

    It goes on from `prefixes`, and leaves there what it computed.
    """
    waiting, live = deque(rows), list[Row]()
    if rows and reader.slotted is None:
        reader.slotted = fit(reader, rows[0])
    state = Slots(reader, min(size, len(rows))) if reader.slotted else None
    while waiting or live:
        left = _running(live)
        if waiting and (size - len(left)) * DROP_SHARE >= size:
            if live:
                yield
            entering = [waiting.popleft() for _ in range(min(size - len(left), len(waiting)))]
            state = _going_on(reader, state, left, entering, prefixes)
            live = [*(live[i] for i in left), *entering]
        assert state is not None
        tokens = _write(live, state.logits, sampling, stop)
        left = _running(live)
        if not waiting and (len(live) - len(left)) * DROP_SHARE >= len(live):
            if prefixes is not None:
                _leave(prefixes, state, live)
            yield
            live, tokens = [live[i] for i in left], tokens[left]
            state = state.keep(left) if left else state
        if left:
            state.feed(tokens)


def _running(live: Sequence[Row]) -> list[int]:
    return [i for i, row in enumerate(live) if not row.done]


def _write(live: Sequence[Row], logits: Tensor, sampling: Sampling, stop: Collection[int]) -> Tensor:
    """Draws a token for each row, and returns them; those that are done keep what they have."""
    uniform = torch.tensor([row.uniform for row in live], dtype=torch.float64, device=logits.device)
    tokens, logps = draw(logits, uniform, sampling)
    ids, values = torch.stack((tokens.double(), logps.double())).tolist()  # one transfer: the host waits but once
    if not np.isfinite(values).all():
        raise TrainingError("the policy's logits are not finite: its weights are damaged or its dtype overflows")
    for row, token, logp in zip(live, ids, values, strict=True):
        row.add(int(token), logp, stop)
    return tokens


def _going_on(
    reader: Reader, state: State | Slots | None, left: Sequence[int], entering: Sequence[Row], prefixes: Prefixes | None
) -> State | Slots:
    """The state of the rows that are left, and behind them of those that enter; each prompt is read once."""
    parts: list[tuple[State, Sequence[int]]] = []
    prompts, begin = {row.prompt: row.prompt_ids for row in entering}, 0
    for read in reader.read(list(prompts.values()), prefixes):
        place = {prompt: i for i, prompt in enumerate(list(prompts)[begin : begin + len(read.starts)])}
        parts.append((read, [place[row.prompt] for row in entering if row.prompt in place]))
        begin += len(read.starts)
    if isinstance(state, Slots):
        return state.go_on(left, parts)
    if state is not None and left:
        parts.insert(0, (state, left))
    if len(parts) > 1:
        return joined(parts)
    ((only, rows),) = parts
    return only if list(rows) == list(range(len(only.starts))) else only.keep(rows)


def _leave(prefixes: Prefixes, state: State | Slots, live: Sequence[Row]) -> None:
    """Keeps what is cached of the rows that are done, all but their last token."""
    gone = [i for i, row in enumerate(live) if row.done]
    state.remember(prefixes, [live[i].prompt_ids + live[i].ids[:-1] for i in gone], gone)


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """One token for each row and its log-probability under the sampling distribution.

    logits: (B, V); uniform: (B,) float64 in [0, 1). Returns (B,) ids and (B,) float32 nats. Inverse transform
    sampling: one number a token, whatever the vocabulary and the batch.
    """
    if sampling.temperature == 0:
        token = logits.argmax(-1)
        return token, torch.zeros_like(token, dtype=torch.float32)
    probability = truncated(logits, sampling).softmax(-1)
    mass = probability.cumsum(-1, dtype=torch.float64)
    token = torch.searchsorted(mass, (uniform * mass[:, -1])[:, None], right=True)
    token = token.clamp(max=logits.shape[-1] - 1)
    return token[:, 0], probability.gather(-1, token)[:, 0].log()


def _attention_only(model: Any) -> bool:
    """Whether padding can be masked out everywhere: recurrent states would take it in."""
    return all(isinstance(layer, DynamicLayer) for layer in DynamicCache(config=model.config).layers)
