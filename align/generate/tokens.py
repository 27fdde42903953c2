"""What generators around a loaded policy share: prompts as ids, ids as replies, and the proof of who drew them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from align.config import Sampling
from align.errors import CheckError, TrainingError
from align.generate.base import Completion
from align.models.preview import context_of
from align.records import Messages

if TYPE_CHECKING:
    from align.models.policy import Policy

DRIFT = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest mean difference, in nats a token, between the log-probs that sampling and training compute."""

SPARE = 8
"""Tokens before a text that is looked for, as some tokenizers drop blanks where a text begins."""


def prompts_of(policy: Policy, prompts: Sequence[Messages], limit: int) -> list[tuple[list[int], int]]:
    """The ids of each prompt and how many tokens may follow them: at most `limit`, and what the context has room for.

    Raises CheckError for a prompt that nothing can be continued from.
    """
    context = context_of(policy.model)
    made = []
    for i, prompt in enumerate(prompts):
        ids = policy.chat.prompt(prompt)
        if not ids:
            raise CheckError(f"prompt {i} has no tokens: nothing can be continued from it")
        if context is not None and len(ids) >= context:
            raise CheckError(f"prompt {i} leaves no room to reply: {len(ids)} tokens in a context of {context}")
        made.append((ids, limit if context is None else min(limit, context - len(ids))))
    return made


def completion(
    policy: Policy, prompt: int, index: int, ids: Sequence[int], logps: Sequence[float], ended: bool = False
) -> Completion:
    """The reply that these tokens are; it stopped if it was ended, or the last of them is a stop id."""
    stopped = bool(ids) and ids[-1] in policy.contract.stop
    text = policy.chat.text(list(ids[:-1] if stopped else ids))
    return Completion(prompt, index, text, tuple(ids), tuple(logps), "stop" if stopped or ended else "length")


def ending(policy: Policy, until: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    """Whether the text of a reply's ids holds one of these texts; to be asked after each token."""
    most = max(len(end.encode()) for end in until) + SPARE  # a token is a byte at least

    def holds(ids: Sequence[int]) -> bool:
        text = policy.chat.text(ids)
        return any(end in text for end in until)

    return lambda ids: holds(ids[-most:]) and holds(ids)


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """(B, V) float32 log-probabilities in nats of what a token is drawn from, given (B, V) logits.

    Where decoding is greedy, the model's own.
    """
    return truncated(logits, sampling).log_softmax(-1)


def truncated(logits: Tensor, sampling: Sampling) -> Tensor:
    """(B, V) float32 logits over the temperature; all but the `top_k` likeliest, then all but the nucleus of mass
    `top_p`, are minus infinity."""
    logits = logits.float()
    if sampling.temperature not in (0, 1):
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        worst = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < worst, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        mass = ordered.softmax(-1)
        outside = mass.cumsum(-1) - mass >= sampling.top_p  # the mass before a token already suffices
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    return logits


@torch.no_grad()
def check_drawn(
    policy: Policy, prompt: Sequence[int], ids: Sequence[int], logps: Sequence[float], sampling: Sampling
) -> None:
    """Raises TrainingError unless the policy says of a reply what the engine that wrote it said: `logps`, in nats.

    An engine may hold old weights, or compute an architecture otherwise; one forward pass shows it.
    """
    row = torch.tensor([[*prompt, *ids]], device=policy.model.device)
    logits = policy.model(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1]
    own = distribution(logits, sampling).gather(-1, row[0, len(prompt) :, None])[:, 0].cpu().numpy()
    both = np.isfinite(own)  # rounding moves tokens over the edge of top_k and top_p
    error = float(np.abs(own - np.array(logps))[both].mean()) if both.any() else np.inf
    if not error <= DRIFT[policy.contract.dtype]:
        raise TrainingError(
            f"the engine that drew a reply and the policy disagree about its tokens by {error:.2g} nats a token "
            f"(tolerance {DRIFT[policy.contract.dtype]:g}): set the machine's generator to hf"
        )
