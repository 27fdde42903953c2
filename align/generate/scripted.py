"""A generator that says what it is told: for tests of whatever reads replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from align.config import Sampling
from align.generate.base import Completion, Progress
from align.records import Messages


class ScriptedGenerator:
    """Replies with `script(prompt, index)`. A token is a byte of UTF-8; what is longer than allowed is cut."""

    def __init__(self, script: Callable[[Messages, int], str]):
        self.script = script

    def generate(
        self, prompts: Sequence[Messages], sampling: Sampling, seed: int, progress: Progress | None = None,
        until: Sequence[str] = (),
    ) -> list[Completion]:  # fmt: skip
        made = [
            self._completion(i, j, self.script(prompt, j), sampling.max_new_tokens)
            for i, prompt in enumerate(prompts)
            for j in range(sampling.n)
        ]
        if progress:
            progress(len(made), len(made))
        return made

    def choose(
        self, questions: Sequence[Messages], options: Sequence[str], progress: Progress | None = None
    ) -> np.ndarray:
        """Sure of the option that the script replies with; NaN where it replies with none of them."""
        made = np.full((len(questions), len(options)), np.nan)
        for i, question in enumerate(questions):
            reply = self.script(question, 0)
            if reply in options:
                made[i] = [0.0 if option == reply else -np.inf for option in options]
        return made

    def _completion(self, prompt: int, index: int, text: str, limit: int) -> Completion:
        ids = tuple(text.encode())
        kept = ids[:limit]
        finish = "stop" if len(kept) == len(ids) else "length"
        return Completion(prompt, index, bytes(kept).decode(errors="ignore"), kept, (0.0,) * len(kept), finish)
