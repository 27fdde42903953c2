"""Decoding with a Hugging Face model in this process.

Our own loop instead of `model.generate`, because a step of alignment needs what that does not give: a prompt is
prefilled once for all its replies, finished rows leave the batch, each reply has its own random stream, and the
log-probabilities of the sampling distribution come with the tokens. Keys and values grow in place (transformers copies
all of them at every token, which on a CPU is a third of the time).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from align.generate.tokens import completion, distribution, prompts_of
from align.models.attention import layout_for
from align.records import Messages

if TYPE_CHECKING:
    from align.models.policy import Policy

DROP_SHARE = 8
"""Finished rows leave once they are an eighth of the batch: leaving copies what is cached of the others."""


class HFGenerator:
    """Answers with a policy, `batch` replies side by side; questions are read in micro-batches of `max_tokens`.

    A reply ends at a stop id, after `max_new_tokens`, or where the model's context ends (finish reason `length`).
    keep: prompts go on from those of the call before, and the policy stays as it is, so what was computed of the last
    batch is kept until the next.
    """

    def __init__(self, policy: Policy, batch: int = 64, max_tokens: int = 1024, keep: bool = False):
        self.policy, self.batch, self.max_tokens = policy, batch, max_tokens
        self._prefixes = Prefixes() if keep and keeps_all(policy.model) else None

    def generate(
        self, prompts: Sequence[Messages], sampling: Sampling, seed: int, progress: Progress | None = None
    ) -> list[Completion]:
        rows = [
            _Row(i, j, ids, limit, uniforms(seed, prompts[i], j, limit if sampling.temperature else 0))
            for i, (ids, limit) in enumerate(prompts_of(self.policy, prompts, sampling.max_new_tokens))
            for j in range(sampling.n)
        ]
        model, contract = self.policy.model, self.policy.contract
        training = model.training
        model.eval()
        made: list[Completion] = []
        try:
            for batch in _batches(rows, self.batch, equal=not _attention_only(model)):
                sampled = decode(model, batch, sampling, contract.stop, contract.pad, self._prefixes)
                made += [
                    completion(self.policy, row.prompt, row.index, ids, logps)
                    for row, (ids, logps) in zip(batch, sampled, strict=True)
                ]
                if progress:
                    progress(len(made), len(rows))
        finally:
            model.train(training)
        return sorted(made, key=lambda c: (c.prompt, c.index))

    def choose(
        self, questions: Sequence[Messages], options: Sequence[str], progress: Progress | None = None
    ) -> np.ndarray:
        return choose(self.policy, questions, options, self.max_tokens, self._layout, progress)

    @cached_property
    def _layout(self) -> Layout:
        """Whether the model can be trusted with questions that share their beginnings in a row."""
        config = self.policy.model.config
        return layout_for(config, config._attn_implementation, min(self.max_tokens, WIDTH))[0]


@dataclass(frozen=True, slots=True)
class _Row:
    """One reply to be written: `ids` are its prompt's, `limit` the most tokens that may follow."""

    prompt: int
    index: int
    ids: list[int]
    limit: int
    uniforms: np.ndarray


def _batches(rows: list[_Row], size: int, equal: bool) -> Iterator[list[_Row]]:
    """Rows by length of their prompt, replies to one prompt together; `equal`: no two lengths in a batch."""
    batch: list[_Row] = []
    for row in sorted(rows, key=lambda r: (-len(r.ids), r.prompt, r.index)):
        if batch and (len(batch) == size or (equal and len(row.ids) != len(batch[0].ids))):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@torch.no_grad()
def decode(
    model: Any, rows: list[_Row], sampling: Sampling, stop: Sequence[int], pad: int, prefixes: Prefixes | None = None
) -> list[tuple[list[int], list[float]]]:
    """The ids and log-probs of the replies of one batch, in the order of `rows`.

    It goes on from `prefixes`, and leaves there what it computed.
    """
    device = next(model.parameters()).device
    limits = torch.tensor([row.limit for row in rows], device=device)
    steps = max(row.limit for row in rows)
    draws = torch.zeros(len(rows), steps, dtype=torch.float64)
    for i, row in enumerate(rows):
        draws[i, : len(row.uniforms)] = torch.from_numpy(row.uniforms)
    draws, stops = draws.to(device), torch.tensor(list(stop), device=device)
    ids = torch.full((len(rows), steps), pad, device=device)
    logps = torch.zeros(len(rows), steps, device=device)
    lengths = limits.clone()
    state = _State(model, rows, steps, pad, device, prefixes)

    def leave(gone: Tensor) -> None:
        if prefixes is not None:
            known = [rows[i].ids + ids[i, : lengths[i] - 1].tolist() for i in batch[gone].tolist()]
            prefixes.add(known, state.cache, gone, state.starts[gone].tolist())

    batch = torch.arange(len(rows), device=device)  # the row that each row of the state is
    running = torch.ones_like(limits, dtype=torch.bool)
    for step in range(steps):
        ids[batch, step], logps[batch, step] = draw(state.logits, draws[batch, step], sampling)
        hit = torch.isin(ids[batch, step], stops) & running
        lengths[batch] = torch.where(hit, step + 1, lengths[batch])
        running = running & ~hit & (step + 1 < limits[batch])
        left = int(running.sum())
        if not left:
            leave(torch.arange(len(batch), device=device))
            break
        if (len(batch) - left) * DROP_SHARE >= len(batch):
            kept = running.nonzero().squeeze(1)
            leave((~running).nonzero().squeeze(1))
            state.keep(kept)
            batch, running = batch[kept], running[kept]
        state.feed(ids[batch, step])
    if not torch.isfinite(logps).all():
        raise TrainingError("the policy's logits are not finite: its weights are damaged or its dtype overflows")
    return [
        (row[:length], logp[:length])
        for row, logp, length in zip(ids.tolist(), logps.tolist(), lengths.tolist(), strict=True)
    ]


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """One token for each row and its log-probability under the sampling distribution.

    logits: (B, V); uniform: (B,) float64 in [0, 1). Returns (B,) ids and (B,) float32 nats. Inverse transform
    sampling: one number a token, whatever the vocabulary and the batch.
    """
    if sampling.temperature == 0:
        token = logits.argmax(-1)
        return token, torch.zeros_like(token, dtype=torch.float32)
    logp = distribution(logits, sampling)
    mass = logp.double().exp().cumsum(-1)
    token = torch.searchsorted(mass, (uniform * mass[:, -1])[:, None], right=True)
    token = token.clamp(max=logits.shape[-1] - 1)
    return token[:, 0], logp.gather(-1, token)[:, 0]


class _State:
    """The model, what it has cached of each row, and the logits of each row's next token."""

    def __init__(
        self, model: Any, rows: list[_Row], steps: int, pad: int, device: torch.device, prefixes: Prefixes | None = None
    ):
        self.model = model
        self.names = inspect.signature(_base(model).forward).parameters.keys()
        self.cache = DynamicCache(config=model.config)
        self.cache.layers = [_Growing() if type(layer) is DynamicLayer else layer for layer in self.cache.layers]
        prompts = {row.prompt: row.ids for row in rows}
        known = self._from(prefixes, list(prompts.values()), pad, device) if prefixes is not None else 0
        ids, mask = _left_padded(list(prompts.values()), pad, device)
        self.padded = not bool(mask.all())
        self.mask, self.seen = mask, ids.shape[1]
        self.position = mask.sum(1)
        self._forward(ids[:, known:], (mask.cumsum(1) - 1).clamp(min=0)[:, known:])
        place = {prompt: i for i, prompt in enumerate(prompts)}
        if len(rows) > len(prompts):
            self.keep(torch.tensor([place[row.prompt] for row in rows], device=device))
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(rows), steps)], dim=1)

    def _from(self, prefixes: Prefixes, prompts: list[list[int]], pad: int, device: torch.device) -> int:
        """Takes from what is kept, which ends there, and returns how many columns need not be computed."""
        if common := prefixes.common(prompts):
            alone = _State(self.model, [_Row(0, 0, common, 0, np.zeros(0))], 0, pad, device)
            prefixes.add([common], alone.cache, torch.zeros(1, dtype=torch.long, device=device), [0])
        known = prefixes.fill(self.cache, prompts)
        prefixes.clear()
        return known

    @property
    def starts(self) -> Tensor:
        """The column of each row's first token."""
        return self.seen - self.position

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows; one may come several times."""
        self.cache.reorder_cache(rows)  # pyright: ignore[reportArgumentType] - any integer tensor does
        self.mask, self.position, self.logits = self.mask[rows], self.position[rows], self.logits[rows]

    def feed(self, token: Tensor) -> None:
        """Appends one token to each row."""
        self.seen += 1
        self._forward(token[:, None], self.position[:, None])
        self.position = self.position + 1

    def _forward(self, ids: Tensor, positions: Tensor) -> None:
        given = {
            "attention_mask": self.mask[:, : self.seen] if self.padded else None,
            "position_ids": positions,
            "past_key_values": self.cache,
            "cache_params": self.cache,  # what state-space models call it
            "use_cache": True,
            "logits_to_keep": 1,
        }
        output = self.model(input_ids=ids, **{k: v for k, v in given.items() if k in self.names})
        self.logits = output.logits[:, -1]


class _Growing(DynamicLayer):
    """Keys and values in buffers with room to grow, so that a new token is written and the old ones stay in place."""

    room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            return super().update(key_states, value_states)
        seen = self.get_seq_length()
        end = seen + key_states.shape[-2]
        if self.room is None or end > self.room[0].shape[-2]:
            assert self.keys is not None and self.values is not None
            self.room = _room(self.keys, end), _room(self.values, end)
        for buffer, states in zip(self.room, (key_states, value_states), strict=True):
            buffer[:, :, seen:end] = states
        self.keys, self.values = self.room[0][:, :, :end], self.room[1][:, :, :end]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Any) -> None:
        super().reorder_cache(beam_idx)
        self.room = None


def _room(states: Tensor, length: int) -> Tensor:
    """A copy of the states with room for half as many again."""
    rows, heads, seen, size = states.shape
    buffer = states.new_empty(rows, heads, length + length // 2, size)
    buffer[:, :, :seen] = states
    return buffer


def _left_padded(prompts: list[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(P, T) ids with the prompts' last tokens in the last column, and the mask of what is no padding."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, mask


def _base(model: Any) -> Any:
    """The Hugging Face model beneath adapters: the one whose `forward` names its arguments."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _attention_only(model: Any) -> bool:
    """Whether padding can be masked out everywhere: recurrent states would take it in."""
    return all(isinstance(layer, DynamicLayer) for layer in DynamicCache(config=model.config).layers)
