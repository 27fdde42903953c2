"""The fewest floating-point operations that a step's mathematics needs; a multiplication and an addition are two.

Counted are products of matrices: all else of a transformer is small beside them. A prompt counts once however many
replies it has, padding never, the vocabulary's projection only where a token is scored. A backward pass needs the
gradient of both factors of every product, twice the forward pass; one that is recomputed to save memory counts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any, ClassVar

BACKWARD = 2
"""Operations of a backward pass beside those of the forward pass."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of a prompt and of each reply to it. A text without a prompt is one reply to nothing."""

    prompt: int
    replies: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return self.prompt + sum(self.replies)

    @property
    def scored(self) -> int:
        return sum(self.replies)

    @property
    def pairs(self) -> int:
        """(query, key) pairs of causal attention: each token sees itself and what comes before it."""
        own = sum(n * (n + 1) // 2 for n in (self.prompt, *self.replies))
        return own + self.prompt * sum(self.replies)


@dataclass(frozen=True)
class Questions:
    """Prompts after which a few answers are compared; what prompts begin with alike is read once.

    No projection counts: of the vocabulary the answers' own rows are enough, once a question.
    """

    tokens: int
    pairs: int
    scored: ClassVar[int] = 0

    @classmethod
    def of(cls, prompts: Iterable[Sequence[int]]) -> Questions:
        """The tokens of a tree of prompts, and the (query, key) pairs of each token with all that leads to it."""
        tokens = pairs = 0
        for before, prompt in pairwise([(), *sorted(map(tuple, prompts))]):
            known = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(before, prompt, strict=False)))
            tokens += len(prompt) - known
            pairs += (len(prompt) * (len(prompt) + 1) - known * (known + 1)) // 2
        return cls(tokens, pairs)


Row = Lengths | Questions


@dataclass(frozen=True)
class Shape:
    """What of a model decides how many operations a token costs."""

    linear: int
    """Numbers in the matrices that a token is multiplied by, in all layers; embeddings and output left out."""
    layers: int
    attention: int
    """Width of attention: heads times the size of one."""
    hidden: int
    vocabulary: int

    @classmethod
    def of(cls, model: Any) -> Shape:
        """The shape of a dense transformers model. Of a mixture of experts, whose tokens meet a few, it counts all."""
        config = model.config.get_text_config(decoder=True)
        head = model.get_output_embeddings()
        backbone = model.base_model
        matrices = {id(m.weight): m.weight for m in backbone.modules() if type(m).__name__ in ("Linear", "Conv1D")}
        matrices.pop(id(getattr(head, "weight", None)), None)
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            linear=sum(weight.numel() for weight in matrices.values()),
            layers=config.num_hidden_layers,
            attention=config.num_attention_heads * size,
            hidden=config.hidden_size,
            vocabulary=config.vocab_size,
        )

    def forward(self, row: Row, project: bool = True) -> int:
        """Operations of reading a prompt and its replies; with `project`, of the log-probs of all reply tokens too.

        It is also what writing the replies takes, where the prompt is read once and every token once.
        """
        linear = 2 * self.linear * row.tokens
        attention = 2 * 2 * self.layers * self.attention * row.pairs  # scores, then the mean of values
        return linear + attention + (2 * self.hidden * self.vocabulary * row.scored if project else 0)


def useful(task: str, shape: Shape, rows: Iterable[Row], epochs: int = 1, critic: bool = True) -> int:
    """Operations that a task needs for these rows; `ppo` in three parts: rollout, scoring, update.

    epochs: of PPO's updates on its replies. critic: whether PPO has one of its own, as large as the policy; without,
    its values cost nothing beside the policy.
    """
    rows = list(rows)
    scored = sum(map(shape.forward, rows))
    read = sum(shape.forward(row, project=False) for row in rows)
    match task:
        case "pretrain" | "sft":
            return (1 + BACKWARD) * scored
        case "reward_model":
            return (1 + BACKWARD) * read
        case "dpo":
            return (1 + BACKWARD) * scored + scored  # the reference once
        case "ppo.rollout" | "sample" | "critique_revise":
            return scored
        case "ppo.scoring":
            return scored + read + critic * read  # reference, reward model, values
        case "ppo.update":
            return epochs * (1 + BACKWARD) * (scored + critic * read)
        case "compare" | "ai_feedback":
            return read  # by one reward model, or by the judge
    raise ValueError(f"no such task: {task}")


def usual(parameters: int, shape: Shape, tokens: int, length: float) -> float:
    """Operations of a training step by the field's usual formula, 6 N + 12 L H Q T a token (arXiv:2204.02311, app. B).

    length: of a row, on average. Unlike `useful` it counts the whole square of attention and every projection.
    """
    return tokens * (6 * parameters + 12 * shape.layers * shape.attention * length)
