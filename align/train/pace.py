"""How fast an online stage goes, and when it saves."""

from __future__ import annotations

import time
from collections.abc import Sequence

from align.train.fit import SAVE_SECONDS
from align.train.learner import Learner
from align.train.online_fields import Online
from align.train.rollout import Turn


class Clock:
    """Tokens per second, the time left, and when to save."""

    def __init__(self, learner: Learner, stage: Online):
        self.learner, self.stage, self.start = learner, stage, time.monotonic()
        self.saved, self.first = self.start, self._step

    @property
    def _step(self) -> int:
        return self.learner.step // self.stage.updates_per_step

    def read(self, turns: Sequence[Turn], playing: float, learning: float) -> dict[str, float]:
        """The figures of the step that just ended: sampled tokens, and tokens of rows that were learned from."""
        sampled = sum(len(c.ids) for turn in turns for c in turn.completions)
        learned = self.stage.epochs * sum(turn.tree.length("tree") for turn in turns)
        pace = (time.monotonic() - self.start) / (self._step - self.first)
        return {
            "rollout_tokens_per_second": round(sampled / max(playing, 1e-9), 1),
            "update_tokens_per_second": round(learned / max(learning, 1e-9), 1),
            "seconds_left": round(pace * (self.stage.steps - self._step), 1),
        }

    def save_due(self) -> bool:
        """Whether this step ends with a checkpoint; ranks agree."""
        if self.stage.checkpoint.every:
            return self._step % self.stage.checkpoint.every == 0
        due = self.learner.any_rank(time.monotonic() - self.saved > SAVE_SECONDS)
        if due:
            self.saved = time.monotonic()
        return due
