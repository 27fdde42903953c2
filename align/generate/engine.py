"""What generators around others' engines share: the policy reads questions itself, and checks what was drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from align.config import Sampling
from align.generate.base import Completion, Progress
from align.generate.hf import HFGenerator
from align.generate.tokens import check_drawn, completion, prompts_of
from align.records import Messages

if TYPE_CHECKING:
    from align.models.policy import Policy

Asked = Sequence[tuple[list[int], int]]
"""The ids of each prompt, and the most tokens that may follow."""
Replies = Mapping[tuple[int, int], tuple[Sequence[int], Sequence[float]]]
"""The ids, with the stop id where there is one, and their log-probs in nats, of each prompt's each reply."""


class Engine(ABC):
    """Answers with a policy whose replies an engine writes."""

    def __init__(self, policy: Policy, batch: int = 64, max_tokens: int = 1024):
        """max_tokens: of one forward pass over questions, which the policy itself reads."""
        self.policy, self.batch = policy, batch
        self._reader = HFGenerator(policy, batch, max_tokens)

    def choose(
        self, questions: Sequence[Messages], options: Sequence[str], progress: Progress | None = None
    ) -> np.ndarray:
        return self._reader.choose(questions, options, progress)

    def generate(
        self, prompts: Sequence[Messages], sampling: Sampling, seed: int, progress: Progress | None = None,
        until: Sequence[str] = (),
    ) -> list[Completion]:  # fmt: skip
        """Raises TrainingError where the engine and the policy disagree about the first reply."""
        asked = prompts_of(self.policy, prompts, sampling.max_new_tokens)
        if not asked:
            return []
        replies = self.written(prompts, asked, sampling, seed, progress)
        check_drawn(self.policy, asked[0][0], *replies[0, 0], sampling)
        return [
            completion(self.policy, prompt, index, ids, logps if sampling.temperature else [0.0] * len(ids))
            for (prompt, index), (ids, logps) in sorted(replies.items())
        ]

    @abstractmethod
    def written(
        self, prompts: Sequence[Messages], asked: Asked, sampling: Sampling, seed: int, progress: Progress | None
    ) -> Replies:
        """`sampling.n` replies to each prompt. asked: the same prompts as the policy has them."""
