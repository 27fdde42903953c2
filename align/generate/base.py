"""What a generator is: prompts and decoding settings in, completions out.

Random numbers belong to (seed, prompt, reply index), never to a position in a batch: a reply is the same, up to the
rounding of floats, whichever prompts are answered beside it and on however many of them side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from align.config import Sampling
from align.records import Messages, prompt_id

Progress = Callable[[int, int], None]
"""`progress(done, total)` in replies, whenever some are done. It may raise, which ends the generation."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One reply to one prompt."""

    prompt: int
    """Position among the prompts given."""
    index: int
    """Which of the replies to this prompt, 0 to n - 1."""
    text: str
    ids: tuple[int, ...]
    """The sampled tokens, with the stop id where there is one; none from a server."""
    logps: tuple[float, ...]
    """Log-probability in nats of each token under the sampling distribution: 0 where decoding is greedy."""
    finish: Literal["stop", "length", "refused"]
    """`refused`: a server kept its answer back, and the text is empty."""
    counted: int | None = None
    """How many tokens a server says it wrote."""

    @property
    def tokens(self) -> int:
        return len(self.ids) if self.counted is None else self.counted


class Generator(Protocol):
    """Answers prompts: a model in this process, a server, or a test double."""

    def generate(
        self, prompts: Sequence[Messages], sampling: Sampling, seed: int, progress: Progress | None = None,
        until: Sequence[str] = (),
    ) -> list[Completion]:  # fmt: skip
        """`sampling.n` completions a prompt, ordered by prompt and reply index.

        until: nobody wants a reply beyond the first of these texts. It may end there or later: `cut` it.
        """
        ...

    def choose(
        self, questions: Sequence[Messages], options: Sequence[str], progress: Progress | None = None
    ) -> np.ndarray:
        """(Q, K) float64 log-probabilities in nats of each option as the answer, normalised over the K options.

        A row is NaN where the answer could not be read: an answer is never guessed.
        """
        ...


def cut(text: str, until: Sequence[str]) -> str:
    """A text before the first of others that is complete in it; wherever it goes on from there, it is the same."""
    complete = [(at + len(end), at) for end in until if (at := text.find(end)) >= 0]
    return text[: min(complete)[1]] if complete else text


def uniforms(seed: int, prompt: Messages, index: int, count: int) -> np.ndarray:
    """(count,) uniform numbers in [0, 1), float64: the random stream of one reply, one number a token."""
    return np.random.default_rng([seed, int(prompt_id(prompt), 16), index]).random(count)


def reply_seed(seed: int, prompt: Messages, index: int) -> int:
    """The seed of one reply, below 2**63, for engines that draw by themselves."""
    return int(np.random.default_rng([seed, int(prompt_id(prompt), 16), index]).integers(2**63))
