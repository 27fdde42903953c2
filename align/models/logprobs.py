"""The one place where logits exist: log-probs of scored tokens, and scores of replies, from a batch of trees.

A step needs the log-probs of a few targets, never the logits. So hidden states are gathered first (prompts and padding
are not projected), then projected in chunks that are thrown away, and once more in the backward pass. One chunk waits
for it, so a batch that fits into a chunk is projected once; nothing larger of the size (tokens, vocabulary) is kept.
Backbone, gather, projection and head are one module whose `forward` is the only door, because DDP and FSDP see only
what goes through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from align.data.tree import Batch
from align.errors import CheckError
from align.models.attention import backbone_inputs

CHUNK = 2**23
"""Logits of one chunk on a CPU: 32 MiB in float32."""
SHARE = 64
"""Logits of one chunk on a GPU may take a 64th of its memory."""
WIDE = 256
"""From so many rows on products with a weight are no faster."""


class Scored(NamedTuple):
    """What a policy says about a batch's scored tokens, in the order of `batch.source`."""

    logp: Tensor
    """(N,) log-probabilities in nats, float32."""
    entropy: Tensor | None
    """(N,) entropies of the predicting distributions in nats, where asked for."""


@dataclass(frozen=True)
class Projection:
    """How a model turns projected hidden states x into logits: cap * tanh(x * scale / cap) / temperature."""

    scale: float = 1.0
    cap: float | None = None
    temperature: float = 1.0

    @classmethod
    def of(cls, model: Any, temperature: float = 1.0) -> Projection:
        """The projection of a model, from the names that transformers' configs give to it.

        A name unknown here is no silent error: `layout_for` holds the result against the model's own logits.
        """
        config = model.config.get_text_config(decoder=True)
        scale = 1.0
        if getattr(config, "logits_scaling", None):  # Granite divides, HyperCLOVA X multiplies
            scale = config.logits_scaling if "hyperclovax" in config.model_type else 1 / config.logits_scaling
        scale *= getattr(config, "logit_scale", None) or 1.0
        scale *= getattr(config, "lm_head_multiplier", None) or 1.0
        cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
        return cls(scale, cap, temperature)

    def logits(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | float]:
        """(n, V) logits, and their derivative by the bare projection: a number, or a tensor where there is a cap."""
        logits = torch.nn.functional.linear(hidden, weight, bias)
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        slope = self.scale / self.temperature
        if self.cap is None:
            return (logits if slope == 1.0 else logits.mul_(slope)), slope
        squashed = logits.mul_(self.scale / self.cap).tanh_()
        return squashed * (self.cap / self.temperature), (1 - squashed.square()) * slope


def chunk(weight: Tensor) -> int:
    """Rows of hidden states that are projected at once by a (V, D) weight, whose size their logits may reach.

    Each chunk reads the weight and adds to its gradient, so a few rows of a large vocabulary take as long as many.
    """
    vocabulary, width = weight.shape
    logits = CHUNK
    if weight.is_cuda:
        logits = torch.cuda.get_device_properties(weight.device).total_memory // (SHARE * 4)
    return max(1, logits // vocabulary, min(width, WIDE))


def _measured(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n,) log-normalisers, log-probs of targets, and entropies of (n, V) logits."""
    lse = logits.logsumexp(-1)
    logp = logits.gather(-1, target[:, None])[:, 0] - lse
    return lse, logp, lse - (logits * (logits - lse[:, None]).exp_()).sum(-1)


def _softened(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) log-normalisers and log-probs of targets of (n, V) logits, which become probabilities in place: taking
    exponentials costs as much as half of the projection, so the backward pass is spared them."""
    right, peak = logits.gather(-1, target[:, None]), logits.amax(-1, keepdim=True)
    total = logits.sub_(peak).exp_().sum(-1, keepdim=True)
    logits.div_(total)
    lse = peak + total.log_()
    return lse[:, 0], (right - lse)[:, 0]


class _Score(torch.autograd.Function):
    """(logp, entropy) of targets under softmax(projection(hidden)), chunk by chunk, forward and backward.

    The forward pass ends with the first chunk, where the backward pass begins: its logits are kept in between, or
    their softmax where no entropy is asked for.

    With p the softmax, H its entropy and y the logits: d logp / d y_j = [j = target] - p_j and
    d H / d y_j = -p_j (log p_j + H).
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, target, projection: Projection, entropy: bool):
        rows = chunk(weight)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logp, lse, spread = (hidden.new_empty(len(hidden), dtype=wide) for _ in range(3))
        kept = None
        for begin in reversed(range(0, len(hidden), rows)):
            at = slice(begin, begin + rows)
            kept = None  # frees the chunk before this one is made
            kept = projection.logits(hidden[at], weight, bias)
            if entropy:
                lse[at], logp[at], spread[at] = _measured(kept[0], target[at])
            else:
                lse[at], logp[at] = _softened(kept[0], target[at])
        ctx.save_for_backward(hidden, weight, bias, target, lse, spread)
        ctx.projection, ctx.rows, ctx.entropy, ctx.kept = projection, rows, entropy, kept
        return logp, spread if entropy else None

    @staticmethod
    @once_differentiable
    def backward(ctx, by_logp, by_entropy):  # type: ignore[override]
        hidden, weight, bias, target, lse, spread = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        to_hidden = torch.empty_like(hidden) if need_hidden else None
        # Sums over chunks stay in float32 however narrow the weights are.
        to_weight = torch.zeros_like(weight, dtype=lse.dtype) if need_weight else None
        to_bias = torch.zeros_like(bias, dtype=lse.dtype) if need_bias else None
        kept, ctx.kept = ctx.kept, None
        for begin in range(0, len(hidden), ctx.rows):
            at = slice(begin, begin + ctx.rows)
            logits, slope = kept or ctx.projection.logits(hidden[at], weight, bias)
            if ctx.entropy:
                logs = logits.sub_(lse[at, None])
                factor = by_logp[at, None] + by_entropy[at, None] * (logs + spread[at, None])
                grad = logs.exp_().mul_(factor).neg_()
            else:
                grad = (logits if kept else logits.sub_(lse[at, None]).exp_()).mul_(-by_logp[at, None])
            grad.scatter_add_(-1, target[at, None], by_logp[at, None])
            grad = grad if isinstance(slope, float) and slope == 1.0 else grad.mul_(slope)
            grad = grad.to(weight.dtype)
            if to_hidden is not None:
                torch.mm(grad, weight, out=to_hidden[at])
            if to_weight is not None:
                to_weight += grad.T @ hidden[at]
            if to_bias is not None:
                to_bias += grad.sum(0)
            kept = logits = logs = factor = grad = None  # frees this chunk before the next one is made
        cast = [g if g is None else g.to(hidden.dtype) for g in (to_weight, to_bias)]
        return to_hidden, *cast, None, None, None


def score(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, projection: Projection, entropy: bool = False
) -> Scored:
    """Log-probs of targets (N,) given hidden states (N, D) and a projection (V, D); exact gradients for all three."""
    if torch.is_autocast_enabled(hidden.device.type):
        narrow = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight, bias = hidden.to(narrow), weight.to(narrow), bias if bias is None else bias.to(narrow)
    return Scored(*_Score.apply(hidden.to(weight.dtype), weight, bias, target, projection, entropy))


def _without_peft(model: Any) -> Any:
    """The transformers model, its layers still carrying the adapters that PEFT put into them."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """(R * T, D) last hidden states of a transformers model, with adapters if it carries any."""
    base = _without_peft(model)
    backbone = base.model if base.base_model is base else base.base_model
    states = backbone(use_cache=False, **backbone_inputs(backbone, batch)).last_hidden_state
    return states.flatten(0, 1)[: batch.ids.numel()]


class LanguageModel(nn.Module):
    """A causal language model of transformers, PEFT or not, that answers with log-probs of scored tokens."""

    model: Any

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, temperature: float = 1.0, entropy: bool = False) -> Scored:
        """Log-probs (and entropies) of the batch's scored tokens under logits / temperature."""
        return self.project(self.before(batch), batch, temperature, entropy)

    def before(self, batch: Batch) -> Tensor:
        """(N, D) the hidden states that predict the scored tokens."""
        return hidden_states(self.model, batch).index_select(0, batch.source)

    def project(self, hidden: Tensor, batch: Batch, temperature: float = 1.0, entropy: bool = False) -> Scored:
        """Log-probs (and entropies) of the scored tokens, given the hidden states that predict them."""
        projection = Projection.of(self.model, temperature)
        return score(hidden, *self._head(), batch.target, projection, entropy)

    @torch.no_grad()
    def ranked(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(N,) log-probs of the scored tokens, and (N,) whether each is the likeliest in its place."""
        (weight, bias), projection = self._head(), Projection.of(self.model)
        hidden, rows, made = self.before(batch).to(weight.dtype), chunk(weight), []
        for states, target in zip(hidden.split(rows), batch.target.split(rows), strict=True):
            logits, _ = projection.logits(states, weight, bias)
            logp = logits.gather(-1, target[:, None])[:, 0] - logits.logsumexp(-1)
            made.append((logp, logits.argmax(-1) == target))
        logps, likeliest = zip(*made, strict=True)
        return torch.cat(logps), torch.cat(likeliest)

    def _head(self) -> tuple[Tensor, Tensor | None]:
        head = self.model.get_output_embeddings()
        if hasattr(head, "base_layer") or hasattr(head, "modules_to_save"):
            raise CheckError("an adapter on the output projection would be ignored: leave lm_head out of lora.targets")
        return head.weight, getattr(head, "bias", None)


class RewardModel(nn.Module):
    """A sequence classifier of transformers with one label, PEFT or not, that answers with one score a reply."""

    model: Any

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, before: bool = False) -> Tensor:
        """(K,) float32 scores, read at each reply's last token.

        before: as a critic, (N,) values instead, read where each scored token is predicted.
        """
        head = _without_peft(self.model).score
        hidden = hidden_states(self.model, batch).index_select(0, batch.source if before else batch.last)
        return scores(hidden, head)


def scores(hidden: Tensor, head: nn.Linear) -> Tensor:
    """(N,) what a head of one score says of hidden states (N, D), in float32: in bfloat16 scores lie 1/64 apart."""
    with torch.autocast(hidden.device.type, enabled=False):
        bias = None if head.bias is None else head.bias.float()
        return torch.nn.functional.linear(hidden.float(), head.weight.float(), bias)[:, 0]
