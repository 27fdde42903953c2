"""Rows in fixed places, for GPUs: a step of decoding whose shapes and addresses stay, so that it is launched at once.

A decoding step is some hundred small kernels, and telling a GPU of each takes longer than most of them. A CUDA graph
tells it of all of them at once, but reads and writes where it did when it was captured. So each row has a slot: its
token n stands in column n of the slot's keys and values, columns behind are masked, and who leaves makes room for
somebody else without anything being moved.

The forward pass is the model's own. Whether it can be used so is tried out on two prompts before each generation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.cache_utils import DynamicCache, DynamicLayer

from align.generate.prefix import Prefixes
from align.generate.state import Reader, Row, State, joined
from align.generate.tokens import DRIFT
from align.models.attention import TOLERANCE, computed_in
from align.models.blocks import SDPA

ROOM = 128
"""Slots have a multiple of so many columns: a graph is captured for each width."""
SPARE = 4
"""Rows that are left are given slots of their own where there are so many times as many."""
DEVICE = "cuda"
"""Where it pays."""
TRIAL = 64
"""Tokens of a prompt that a model is tried out on."""
NEEDED = {"input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache"}


class Slots:
    """A batch of rows that each stay in their slot. It offers what a `State` does."""

    def __init__(self, reader: Reader, size: int):
        """size: the most rows side by side."""
        self.reader, self.size, self.columns = reader, size, 0
        self.cache = DynamicCache(config=reader.model.config)
        placed: list[Any] = [_Placed() for _ in self.cache.layers]
        self.cache.layers = placed
        self._slots: list[int] = []
        """Of each row; `_index` the same as a tensor."""
        self._ends = [0] * size
        """The column that each slot's next token goes to."""
        self._tokens = torch.zeros(size, dtype=torch.long, device=reader.device)
        self._at = torch.zeros(size, dtype=torch.long, device=reader.device)
        """(S,) the columns that the tokens of a step go to."""
        self._logits: Tensor | None = None  # (S, V)
        self._step: Callable[[], None] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What attention is computed in."""
        return computed_in(self.reader.model)

    @property
    def logits(self) -> Tensor:
        """(B, V) of each row's next token."""
        assert self._logits is not None
        return self._logits[self._index]

    def go_on(self, left: Sequence[int], parts: Sequence[tuple[State, Sequence[int]]]) -> Slots:
        """With the rows that are left, and behind them those of states; one of these may come several times."""
        slots = [self._slots[row] for row in left]
        free = [slot for slot in range(self.size) if slot not in slots]
        for state, rows in parts:
            longest = state.seen - min(state.starts[row] for row in rows)
            if longest >= self.columns:
                self._lay(range(self.size), longest)
            chosen, free = free[: len(rows)], free[len(rows) :]
            self._enter(state, rows, chosen, longest)
            slots += chosen
        return self._filled(slots)

    def keep(self, rows: Sequence[int]) -> Slots:
        """Goes on with these rows alone, and for good: where they take a quarter of the slots, the others are given
        back. Not before, for the step is captured anew."""
        slots = [self._slots[row] for row in rows]
        if len(slots) * SPARE > self.size:
            return self._filled(slots)
        self._lay(slots, self.columns - 1)
        return self._filled(range(self.size))

    def feed(self, tokens: Tensor) -> None:
        """Appends one token to each row."""
        if max(self._ends[slot] for slot in self._slots) >= self.columns:
            self._lay(range(self.size), self.columns * 3 // 2)
        self._tokens[self._index] = tokens
        self._at.copy_(torch.tensor(self._ends))
        if self._step is None:
            self._step = self._captured()
        self._step()
        for slot in self._slots:
            self._ends[slot] = min(self._ends[slot] + 1, self.reader.last)

    def remember(self, prefixes: Prefixes, ids: Sequence[list[int]], rows: Sequence[int]) -> None:
        """Keeps what is cached of these rows, whose ids are given."""
        slots = torch.tensor([self._slots[row] for row in rows])
        prefixes.add(ids, self.cache, slots, [0] * len(rows))

    def _filled(self, slots: Sequence[int]) -> Slots:
        """With these slots as rows. In others tokens are written to the first column, over and over."""
        self._slots, self._index = list(slots), torch.tensor(list(slots), device=self.reader.device)
        self._ends = [end if slot in slots else 0 for slot, end in enumerate(self._ends)]
        return self

    def _forward(self) -> None:
        """The step itself: from the tokens, which go to the columns `at`, to the logits; nothing waits for the host."""
        assert self._logits is not None
        seen = torch.arange(self.columns, device=self._at.device) <= self._at[:, None]
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self._at.device)
        mask.masked_fill_(~seen, torch.finfo(self.dtype).min)
        layers: list[Any] = self.cache.layers
        for layer in layers:
            layer.at = self._at
        made = self.reader.model(
            input_ids=self._tokens[:, None], attention_mask=mask[:, None, None], position_ids=self._at[:, None],
            past_key_values=self.cache, use_cache=True,
        )  # fmt: skip
        self._logits.copy_(made.logits[:, -1])

    def _captured(self) -> Callable[[], None]:
        """The step as a CUDA graph, where there is a GPU. It is run once before, for what kernels make only once."""
        if self.reader.device.type != "cuda":
            with _Unwaiting():
                self._forward()
            return self._forward
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), _Unwaiting():
            self._forward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._forward()
        return graph.replay

    def _lay(self, order: Sequence[int], least: int) -> None:
        """Moves these slots into new buffers with more than `least` columns."""
        self.columns, self._step = (least // ROOM + 1) * ROOM, None
        index, layers = torch.tensor(list(order), device=self.reader.device), self.cache.layers
        for layer in cast(list[_Placed], layers):
            layer.lay(index, self.columns)
        self.size, self._ends = len(order), [self._ends[slot] for slot in order]
        self._tokens, self._at = self._tokens[index], self._at[index]
        self._logits = None if self._logits is None else self._logits[index]

    def _enter(self, state: State, rows: Sequence[int], slots: Sequence[int], width: int) -> None:
        """Copies so many columns of each row of a state, from its first token on; those behind its last are masked."""
        device, starts = self.reader.device, [state.starts[row] for row in rows]
        at = (torch.tensor(starts)[:, None] + torch.arange(width)).clamp(max=state.seen - 1).to(device)
        source, target = (torch.tensor(list(of), device=device) for of in (rows, slots))
        layers: list[Any] = self.cache.layers
        for layer, other in zip(layers, state.cache.layers, strict=True):
            if not layer.is_initialized:
                layer.make(other, (self.size, self.columns), self.dtype)
            layer.enter(other, source, at, target)
        if self._logits is None:
            self._logits = state.logits.new_zeros(self.size, state.logits.shape[1])
        self._logits[target] = state.logits[source]
        for slot, start in zip(slots, starts, strict=True):
            self._ends[slot] = state.seen - start


class _Placed(DynamicLayer):
    """Keys and values of all slots, (S, H, C, D), into which one token of each is written."""

    at: Tensor
    """(S,) the column of each."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        both, rows = self._both(), torch.arange(len(self.at), device=self.at.device)
        for mine, states in zip(both, (key_states, value_states), strict=True):
            mine[rows, :, self.at] = states[:, :, 0].to(mine.dtype)
        return both

    def make(self, like: Any, shape: tuple[int, int], dtype: torch.dtype) -> None:
        """Room for so many slots and columns. A mask gives no weight to what is free, but 0 times infinity is none."""
        self.lazy_initialization(like.keys, like.values)
        self.keys, self.values = (
            states.new_zeros(shape[0], states.shape[1], shape[1], states.shape[3], dtype=dtype)
            for states in (like.keys, like.values)
        )

    def enter(self, other: Any, rows: Tensor, columns: Tensor, slots: Tensor) -> None:
        """Takes the (n, W) columns of n rows of another layer into n slots."""
        for mine, states in zip(self._both(), (other.keys, other.values), strict=True):
            index = columns[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
            mine[slots, :, : columns.shape[1]] = states[rows].gather(2, index).to(mine.dtype)

    def lay(self, slots: Tensor, width: int) -> None:
        """Keeps these slots, with so many columns."""
        if self.is_initialized:
            kept = min(width, self._both()[0].shape[2])
            self.keys, self.values = (pad(states[slots, :, :kept], (0, 0, 0, width - kept)) for states in self._both())

    def _both(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        return self.keys, self.values


class _Unwaiting(TorchDispatchMode):
    """Within it, what makes the host wait for a device raises RuntimeError: a graph can't hold it."""

    WAITS = frozenset((torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs, made)) if isinstance(x, Tensor) and x.ndim]
        if self.WAITS & set(func.tags) or len({x.device.type for x in given}) > 1:
            raise RuntimeError(f"{func} waits for its device")
        return made


def fit(reader: Reader, row: Row) -> bool:
    """Whether a model decodes in slots: only on a GPU, where it pays, and once tried out.

    Two tokens are appended to the beginning of a prompt and to half of it, by the graph of a step: they must have the
    log-probs that the model's own forward gives to them.
    """
    size = min(TRIAL, len(row.prompt_ids) + row.limit - 2)  # of which both tokens fit into the context
    if not _able(reader) or size < 1:
        return False
    ids = row.prompt_ids[:size]
    try:
        parts = [(part, range(len(part.starts))) for part in reader.read([ids, ids[: -(-len(ids) // 2)]])]
        slots = Slots(reader, 2).go_on([], parts)
        state = joined(parts)
        return all(_agree(slots, state) for _ in range(2))
    except Exception:  # whatever a model makes of it
        return False


def _able(reader: Reader) -> bool:
    """Whether the model is on one GPU, caches all tokens, and takes masks that are added."""
    weights = list(reader.model.parameters())
    return (
        {x.device for x in weights} == {reader.device}
        and reader.device.type == DEVICE
        and not any(isinstance(x, DTensor) for x in weights)
        and reader.keeps_all
        and reader.names >= NEEDED
        and reader.model.config._attn_implementation in (SDPA, "eager")
    )


def _agree(slots: Slots, state: State) -> bool:
    """Appends the likeliest token in both ways."""
    tokens = state.logits.argmax(-1)
    slots.feed(tokens)
    state.forward(tokens[:, None], state.positions[:, None])
    difference = (slots.logits.log_softmax(-1) - state.logits.log_softmax(-1)).abs()
    if slots.dtype == torch.float32:
        return bool(difference.max() <= TOLERANCE)
    return bool(difference.mean() <= DRIFT["bfloat16"])
