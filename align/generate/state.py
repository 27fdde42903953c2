"""What a model has computed of the rows of a batch: keys and values that grow in place, rows that leave and enter."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from align.generate.prefix import Prefixes, keeps_all
from align.models.attention import TOLERANCE
from align.models.decoder import Decoder, Span, spans_of
from align.models.preview import context_of


@dataclass(slots=True)
class Row:
    """One reply: what is to be written, and what is written of it."""

    prompt: int
    index: int
    prompt_ids: list[int]
    limit: int
    """The most tokens that may follow."""
    uniforms: np.ndarray
    ended: Callable[[Sequence[int]], bool] | None = None
    """Whether nobody wants what follows such ids."""
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    done: bool = False
    cut: bool = False
    """Whether it was `ended`."""

    @property
    def uniform(self) -> float:
        """The number that its next token is drawn by; any where there is none to draw."""
        return 0.0 if self.done or not len(self.uniforms) else self.uniforms[len(self.ids)]

    def add(self, token: int, logp: float, stop: Collection[int]) -> None:
        """Writes a token, unless the reply is done."""
        if self.done:
            return
        self.ids.append(token)
        self.logps.append(logp)
        self.cut = self.ended is not None and self.ended(self.ids)
        self.done = self.cut or token in stop or len(self.ids) == self.limit


class Reader:
    """A model, and how it is called. `max_tokens`: of one forward pass, padding included."""

    def __init__(self, model: Any, pad: int, max_tokens: int):
        self.model, self.pad, self.max_tokens = model, pad, max_tokens
        base = model.get_base_model() if hasattr(model, "get_base_model") else model  # beneath adapters
        self.names = inspect.signature(base.forward).parameters.keys()
        self.keeps_all = keeps_all(model)
        self.decoder = Decoder.of(base) if self.keeps_all else None
        context = context_of(model)
        self.last = sys.maxsize if context is None else context - 1
        """The position of the last token that the context has room for: replies that are done may stay there."""
        self.proven = False
        """Whether the decoder has been compared with the model."""
        self.slotted: bool | None = None
        """Whether it is decoded in `align.generate.slots`; None where nobody has tried."""

    @cached_property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def read(self, prompts: Sequence[list[int]], prefixes: Prefixes | None = None) -> Iterator[State]:
        """The states after these prompts, the longest first, in as many parts as the tokens of one pass ask for.

        Takes from `prefixes` what is kept, which ends there.
        """
        if prefixes is not None and (common := prefixes.common(prompts)):
            (alone,) = self.read([common])
            prefixes.add([common], alone.cache, torch.zeros(1, dtype=torch.long, device=self.device), [0])
        for part in self._parts(prompts, [prefixes.rest(ids) if prefixes is not None else len(ids) for ids in prompts]):
            state = State(self)
            known = prefixes.fill(state.cache, part) if prefixes is not None else 0
            width = max(map(len, part))
            state.starts, state.seen = [width - len(ids) for ids in part], known
            ids = torch.tensor([[self.pad] * (width - len(p)) + p for p in part], device=self.device)
            starts = torch.tensor(state.starts, device=self.device)
            positions = (torch.arange(width, device=self.device) - starts[:, None]).clamp(min=0)
            state.forward(ids[:, known:], positions[:, known:])
            yield state
        if prefixes is not None:
            prefixes.clear()

    def _parts(self, prompts: Sequence[list[int]], rests: Sequence[int]) -> Iterator[Sequence[list[int]]]:
        """rests: how many tokens of each prompt are to be computed. All at once where states can't be joined, as those
        of windows and recurrences can't."""
        begin = 0
        for end in range(1, len(prompts) + 1):
            full = end < len(prompts) and max(rests[begin : end + 1]) * (end + 1 - begin) > self.max_tokens
            if end == len(prompts) or (full and self.keeps_all):
                yield prompts[begin:end]
                begin = end


class State:
    """What is cached of each row, all of which end in the same column, and the logits of each row's next token."""

    starts: list[int]
    """The columns of the rows' first tokens."""
    positions: Tensor
    """(B,) where in the rows the next tokens stand."""
    logits: Tensor
    """(B, V)."""

    def __init__(self, reader: Reader):
        self.reader = reader
        self.cache = DynamicCache(config=reader.model.config)
        self.cache.layers = [Growing() if type(layer) is DynamicLayer else layer for layer in self.cache.layers]
        self.seen = 0
        self._spans: list[Span] = []
        self._columns = 0

    def keep(self, rows: Sequence[int]) -> State:
        """Goes on with these rows alone; one may come several times."""
        if self.reader.keeps_all:
            return joined([(self, rows)])
        chosen: Any = torch.tensor(rows, device=self.logits.device)
        self.cache.reorder_cache(chosen)
        self.starts = [self.starts[row] for row in rows]
        self.positions, self.logits = self.positions[chosen], self.logits[chosen]
        return self

    def remember(self, prefixes: Prefixes, ids: Sequence[list[int]], rows: Sequence[int]) -> None:
        """Keeps what is cached of these rows, whose ids are given."""
        prefixes.add(ids, self.cache, torch.tensor(rows), [self.starts[row] for row in rows])

    def feed(self, tokens: Tensor) -> None:
        """Appends one token to each row."""
        decoder = self.reader.decoder
        if decoder is None or torch.is_autocast_enabled(tokens.device.type):
            return self.forward(tokens[:, None], self.positions[:, None])
        if self._columns <= self.seen:
            self._columns = self.seen + self.seen // 2 + 1
            first: Any = self.cache.layers[0]  # keys: (B, H, T, D)
            self._spans = spans_of(self.starts, self._columns, 2 * first.keys.shape[1] * first.keys.shape[3])
        if not self.reader.proven:
            return self._prove(decoder, tokens)
        self.logits = decoder(tokens, self.positions, self.cache.layers, self._spans)
        self._end_at(self.seen + 1, self.positions)

    def _prove(self, decoder: Decoder, tokens: Tensor) -> None:
        """Appends a token in both ways, and forgets the decoder where it is not the model."""
        layers: list[Any] = self.cache.layers
        try:
            own = decoder(tokens, self.positions, layers, self._spans).log_softmax(-1)
        except Exception:  # whatever a block of another form makes of it
            own = torch.tensor(torch.nan)
        for layer in layers:
            layer.cut(self.seen)
        self.forward(tokens[:, None], self.positions[:, None])
        self.reader.proven = bool((own - self.logits.log_softmax(-1)).abs().max() <= TOLERANCE)
        if not self.reader.proven:
            self.reader.decoder = None

    def forward(self, ids: Tensor, positions: Tensor) -> None:
        """Appends (B, T) tokens, the same number to each row, by the model's own forward pass."""
        seen, width, mask = self.seen + ids.shape[1], ids.shape[1], None
        # By an index the last column is copied. Of a view of it, torch on a CPU multiplies each row by a copy of the
        # weight: 3 times as slow, and in bfloat16 hundreds.
        last: Any = torch.tensor([width - 1], device=ids.device) if width > 1 else 1
        if any(self.starts):
            starts = torch.tensor(self.starts, device=ids.device)
            mask = (torch.arange(seen, device=ids.device) >= starts[:, None]).long()
        given = {
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": self.cache,
            "cache_params": self.cache,  # what state-space models call it
            "use_cache": True,
            "logits_to_keep": last,
        }
        model, names = self.reader.model, self.reader.names
        self.logits = model(input_ids=ids, **{k: v for k, v in given.items() if k in names}).logits[:, -1]
        self._end_at(seen, positions[:, -1])

    def _end_at(self, columns: int, last: Tensor) -> None:
        self.seen, self.positions = columns, (last + 1).clamp(max=self.reader.last)


def joined(parts: Sequence[tuple[State, Sequence[int]]]) -> State:
    """One state of these rows of several, which it uses up. Columns that no row needs any more are left out."""
    state = State(parts[0][0].reader)
    widths = [part.seen - min(part.starts[row] for row in rows) for part, rows in parts]
    state.seen = max(widths)
    layers: list[Any] = state.cache.layers
    for i, layer in enumerate(layers):
        layer.take([(part.cache.layers[i], rows, width) for (part, rows), width in zip(parts, widths, strict=True)])
        for part, _ in parts:
            part.cache.layers[i] = Growing()  # what was copied gives its memory back
    state.starts = [part.starts[row] + state.seen - part.seen for part, rows in parts for row in rows]
    state.positions = torch.cat([part.positions[list(rows)] for part, rows in parts])
    state.logits = torch.cat([part.logits[list(rows)] for part, rows in parts])
    return state


class Growing(DynamicLayer):
    """Keys and values in buffers with room to grow, so that a new token is written and the old ones stay in place."""

    room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            return super().update(key_states, value_states)
        seen = self.get_seq_length()
        end = seen + key_states.shape[-2]
        if self.room is None or end > self.room[0].shape[-2]:
            self.take([(self, range(len(key_states)), seen)], end)
        assert self.room is not None
        for buffer, states in zip(self.room, (key_states, value_states), strict=True):
            buffer[:, :, seen:end] = states
        return self._hold(end)

    def take(self, parts: Sequence[tuple[Growing, Sequence[int], int]], least: int = 0) -> None:
        """Holds these rows of each layer and so many of their last columns, aligned to the right.

        There is room for half as many columns again, and for `least` in all.
        """
        first, columns = parts[0][0], max(width for _, _, width in parts)
        if first.keys is None or first.values is None:
            return  # of a layer that uses another's
        if not self.is_initialized:
            self.lazy_initialization(first.keys, first.values)
        length = max(columns, least) * 3 // 2
        self.room = _laid(parts, "keys", columns, length), _laid(parts, "values", columns, length)
        self._hold(columns)

    def reorder_cache(self, beam_idx: Any) -> None:
        super().reorder_cache(beam_idx)
        self.room = None

    def cut(self, columns: int) -> None:
        """Forgets what comes after so many columns."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[:, :, :columns], self.values[:, :, :columns]

    def _hold(self, columns: int) -> tuple[Tensor, Tensor]:
        assert self.room is not None
        self.keys, self.values = self.room[0][:, :, :columns], self.room[1][:, :, :columns]
        return self.keys, self.values


def _laid(parts: Sequence[tuple[Growing, Sequence[int], int]], kind: str, columns: int, length: int) -> Tensor:
    """(rows, H, length, D) with the keys or values of all parts' rows, which end at `columns`.

    Before them stands 0, and anything finite would do: a mask gives it no weight. What is free behind is not read.
    """
    states, at = getattr(parts[0][0], kind), 0
    laid = states.new_empty(sum(len(rows) for _, rows, _ in parts), states.shape[1], length, states.shape[3])
    for layer, rows, width in parts:
        states = getattr(layer, kind)
        states = states[:, :, states.shape[2] - width :]
        whole = list(rows) == list(range(len(states)))
        laid[at : at + len(rows), :, : columns - width] = 0
        laid[at : at + len(rows), :, columns - width : columns] = states if whole else states[list(rows)]
        at += len(rows)
    return laid
