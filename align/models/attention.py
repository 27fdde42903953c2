"""How a tree is attended to, and whether a model can be trusted with it.

There is no list of architectures: before a run, a tiny twin of its own model computes trees both ways, and only a
model that agrees with itself gets them. The others get plain rows, and the same results more slowly.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from align.data.tree import Batch, Layout, Reply, Tree, collate
from align.errors import CheckError
from align.models.blocks import SDPA, dense_mask

TOLERANCE = 1e-4
"""Largest difference of a log-prob, in nats, that rounding in float32 explains."""
FLEX = "flex_attention"
SHORTEST = 1024
"""Tokens of the shortest row that FlexAttention is compiled for."""
BLOCK = 128
"""Tokens of a block of FlexAttention."""
VOCABULARY = 128
"""Of a twin."""


def backbone_inputs(backbone: Any, batch: Batch) -> dict[str, Any]:
    """The ids, positions and mask to call a backbone with. A causal batch needs no mask: kernels are faster without.

    A model whose forward takes no positions counts them itself, which is right for chains, and which `layout_for`
    finds out for trees.
    """
    ids, positions, until = batch.ids, batch.positions, batch.until
    if not batch.causal and backbone.config._attn_implementation == FLEX:
        ids, positions, until = _in_one_row(batch)
    inputs: dict[str, Any] = {"input_ids": ids}
    if "position_ids" in inspect.signature(backbone.forward).parameters:
        inputs["position_ids"] = positions
    if not batch.causal:
        inputs["attention_mask"] = _mask(backbone, until)
    return inputs


def _in_one_row(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """(1, W) ids, positions and visibilities of all rows end to end, then padding up to one of few widths: a power of
    two. FlexAttention is compiled anew for each shape, and hidden blocks of a long row cost it nothing."""
    rows, width = batch.ids.shape
    whole = max(SHORTEST, 1 << (rows * width - 1).bit_length())
    until = batch.until + width * torch.arange(rows, device=batch.until.device)[:, None]
    ends = ((batch.ids, 0), (batch.positions, 0), (until, whole))
    ids, positions, until = (pad(x.flatten(), (0, whole - rows * width), value=end)[None] for x, end in ends)
    return ids, positions, until


def _mask(backbone: Any, until: Tensor) -> Any:
    name = backbone.config._attn_implementation
    if name == FLEX:
        return block_mask(until)
    if name == SDPA and until.device.type == "cpu" and backbone._supports_attention_backend:
        return until[:, None, None]  # `align.models.blocks` makes of it what it takes
    return dense_mask(until, computed_in(backbone))


def computed_in(model: Any) -> torch.dtype:
    """The type that a model attends in: what autocast chooses, or that of its weights."""
    weight = model.get_input_embeddings().weight
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def block_mask(until: Tensor) -> Any:
    """The same visibility as a block mask of FlexAttention, which skips the blocks that nobody sees.

    Tokens are seen by all up to an end, so the ends of a block's tokens say who sees it: no (T, T) mask is made.
    """
    from torch.nn.attention.flex_attention import BlockMask

    def seen(row: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (q < until[row, k])

    width = until.shape[1]
    ends = pad(until, (0, -width % BLOCK)).unflatten(1, (-1, BLOCK))
    first = torch.arange(0, width, BLOCK, device=until.device)
    later = first[:, None] > first
    some = (later & (ends.amax(-1)[:, None] > first[:, None])) | torch.eye(len(first), device=until.device).bool()
    whole = later & (ends.amin(-1)[:, None] >= first[:, None] + BLOCK)  # (R, queries, keys)
    partial, full = (
        (kind.sum(-1)[:, None].int(), kind.int().argsort(descending=True, stable=True)[:, None].int())
        for kind in (some & ~whole, whole)
    )
    return BlockMask.from_kv_blocks(*partial, *full, BLOCK_SIZE=BLOCK, mask_mod=seen, seq_lengths=(width, width))


def prefer_flex(model: Any, device: torch.device | str, longest: int) -> bool:
    """Makes a model attend by FlexAttention, which skips what nobody sees; else it stays as it is, with dense masks.

    Only on CUDA, and only where its twin computes trees of up to `longest` tokens exactly by it. Call it before
    `layout_for`. Returns whether it does.
    """
    if torch.device(device).type != "cuda" or getattr(model.config.get_text_config(), "attention_dropout", 0):
        return False  # the kernel has no backward pass on the CPU, and knows no dropout
    if layout_for(model.config, FLEX, longest)[0] != "tree":
        return False
    model.set_attn_implementation(FLEX)
    return True


@contextmanager
def decoding(model: Any) -> Iterator[None]:
    """Within it a model does not attend by FlexAttention, which is compiled anew for each number of tokens before."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    flex = base.config._attn_implementation == FLEX
    if flex:
        base.set_attn_implementation(SDPA)
    try:
        yield
    finally:
        if flex:
            base.set_attn_implementation(FLEX)


def layout_for(config: Any, attention: str | None = None, max_row: int = 1024) -> tuple[Layout, str]:
    """The layout that this model can be trusted with on rows up to `max_row` tokens, and the reason in one line.

    attention is the run's own implementation (`model.config._attn_implementation`); None lets transformers choose.
    Raises CheckError if the model's own logits are not what we compute from its hidden states.
    """
    # A twin is too small to be worth the minutes that compiling FlexAttention takes.
    with torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"):
        torch.manual_seed(0)
        trees = _trees(min(24, max_row))
        try:
            model, own = _twin_and_logps(config, attention, max_row, trees)
        except Exception as error:
            return "plain", f"plain rows: no tiny twin of this model runs ({_first_line(error)})"
        plain = (_logps(model, trees, "plain") - own).abs().max().item()
        if not plain <= TOLERANCE:
            raise CheckError(
                f"{type(model).__name__}: log-probs computed from its hidden states differ from its own logits by "
                f"{plain:.1e} nats; its projection is one that align.models.logprobs.Projection does not know"
            )
        try:
            difference = (_logps(model, trees, "tree") - own).abs().max().item()
        except Exception as error:
            return "plain", f"plain rows: {type(model).__name__} takes no tree masks ({_first_line(error)})"
    if not difference <= TOLERANCE:
        return "plain", f"plain rows: {type(model).__name__} computes trees wrongly by {difference:.1e} nats a token"
    return "tree", f"trees: exact to {difference:.0e} nats on a tiny {type(model).__name__}"


def _twin_and_logps(config: Any, attention: str | None, max_row: int, trees: list[Tree]) -> tuple[Any, Tensor]:
    """The narrowest twin that runs, and its own log-probs; some widths of state-space models hang together."""
    with contextlib.suppress(Exception):
        model = twin(config, attention, max_row)
        return model, _own_logps(model, trees)
    model = twin(config, attention, max_row, narrow=False)
    return model, _own_logps(model, trees)


def twin(config: Any, attention: str | None, max_row: int, narrow: bool = True) -> Any:
    """A small random float32 model of the same class and attention, with each kind of layer in it.

    A window shorter than the run's rows is made shorter than the twin's rows. Weights are larger than at a usual
    start, where attention is nearly uniform and a wrong mask would hide in the rounding.
    """
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config.get_text_config(decoder=True))
    config.__dict__.pop("quantization_config", None)
    for name, value in _small(config, max_row, narrow).items():
        if getattr(config, name, None) is not None:
            # Some configs derive a field from others: those follow by themselves.
            with contextlib.suppress(AttributeError):
                setattr(config, name, value)
    made = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    return made.eval()


def _small(config: Any, max_row: int, narrow: bool) -> dict[str, Any]:
    """Fields of the twin, by the names that transformers maps every config's own names to."""
    layers = _layers(config)
    small: dict[str, Any] = {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "vocab_size": VOCABULARY,
        "num_hidden_layers": layers,
        "layer_types": (getattr(config, "layer_types", None) or [])[:layers],
        "intermediate_size": 64,
        "moe_intermediate_size": 32,
    }
    heads = getattr(config, "num_attention_heads", None)
    if isinstance(heads, int) and narrow:
        groups = getattr(config, "num_key_value_heads", None) or heads
        small["hidden_size"] = config.hidden_size // heads * 4
        small |= {"num_attention_heads": 4, "num_key_value_heads": max(1, 4 * groups // heads)}
    small["initializer_range"] = small.get("hidden_size", config.hidden_size) ** -0.5
    for name in ("sliding_window", "window_size", "attention_chunk_size"):
        window = getattr(config, name, None)
        if isinstance(window, int) and window < max_row:
            small[name] = 8
    return small


def _layers(config: Any) -> int:
    """Enough of the first layers to meet every kind of layer; hybrids repeat within eight."""
    kinds = getattr(config, "layer_types", None) or []
    firsts = [kinds.index(kind) + 1 for kind in set(kinds)]
    return min(config.num_hidden_layers, max([8, *firsts]))


def _trees(row: int) -> list[Tree]:
    """Two trees of two replies, one filling the row and one that leaves padding."""
    made = []
    for name, width in (("full", row), ("short", row - 5)):
        ids = torch.randint(3, VOCABULARY, (width,)).numpy().astype(np.int32)
        start, middle = width // 3, width * 2 // 3
        made.append(Tree(name, ids[:start], (Reply(ids[start:middle]), Reply(ids[middle:]))))
    return made


@torch.no_grad()
def _logps(model: Any, trees: list[Tree], layout: Layout) -> Tensor:
    from align.models.logprobs import LanguageModel

    return LanguageModel(model)(collate(trees, layout)).logp


@torch.no_grad()
def _own_logps(model: Any, trees: list[Tree]) -> Tensor:
    """What the model itself says, each reply alone in its row, by its own logits."""
    made = []
    for tree in trees:
        for reply in tree.replies:
            ids = torch.from_numpy(np.concatenate([tree.prompt, reply.ids])).long()[None]
            logits = model(input_ids=ids, use_cache=False).logits[0, len(tree.prompt) - 1 : -1]
            made.append(logits.log_softmax(-1).gather(-1, ids[0, len(tree.prompt) :, None])[:, 0])
    return torch.cat(made)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"
