"""A generator with a clock around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from align.bench.clock import Clock
from align.config import Sampling
from align.generate.base import Completion, Generator, Progress
from align.records import Messages


class TimedGenerator:
    """Another generator, whose writing and choosing is timed and kept, to be counted when the clocks have stopped."""

    def __init__(self, generator: Generator, clock: Clock):
        self.generator, self.clock = generator, clock
        self.written: list[tuple[Messages, Completion]] = []
        """Every prompt, as often as it was answered, and the answer."""
        self.asked: list[Messages] = []
        """The questions that were answered by a choice."""

    def prompt(self, messages: Messages) -> list[int]:
        """The ids of a prompt, as the policy reads it."""
        return self.generator.policy.chat.prompt(messages)  # type: ignore[attr-defined]

    def generate(
        self, prompts: Sequence[Messages], sampling: Sampling, seed: int, progress: Progress | None = None,
        until: Sequence[str] = (),
    ) -> list[Completion]:  # fmt: skip
        with self.clock.running():
            made = self.generator.generate(prompts, sampling, seed, progress, until)
        self.written += [(prompts[completion.prompt], completion) for completion in made]
        return made

    def choose(
        self, questions: Sequence[Messages], options: Sequence[str], progress: Progress | None = None
    ) -> np.ndarray:
        with self.clock.running():
            found = self.generator.choose(questions, options, progress)
        self.asked += questions
        return found
