"""A language model as a reward: it reads a rubric and a reply, and says a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from align.generate.base import Generator
from align.records import Message, Messages, Prompt
from align.rewards.base import Better, Rubric

TURNS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}


@dataclass(frozen=True)
class Judge:
    """The expected number, 1 to `rubric.points`, under the judge's own probabilities of each (arXiv:2303.16634); NaN
    where it says no number.

    Probabilities, unlike the likeliest number, tell good replies from better ones, and nothing is sampled.
    """

    generator: Generator
    rubric: Rubric
    name: str
    note: Callable[[str], None]
    better: Better = "higher"

    def __call__(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
        questions = [self.question(p.prompt, r) for p, r in zip(prompts, replies, strict=True)]
        points = np.arange(1, self.rubric.points + 1)
        found = np.exp(self.generator.choose(questions, [str(point) for point in points])) @ points
        if unread := int(np.isnan(found).sum()):
            self.note(f"{self.name}: {unread} of {len(found)} replies get no score, for the judge named no number")
        return found.tolist()

    def question(self, prompt: Messages, reply: str) -> Messages:
        """What the judge is asked, its examples before it as turns of one conversation."""
        turns = []
        for example in self.rubric.examples:
            asked = self._asked((Message("user", example.prompt),), example.reply)
            turns += [Message("user", asked), Message("assistant", str(example.score))]
        return (*turns, Message("user", self._asked(prompt, reply)))

    def _asked(self, prompt: Messages, reply: str) -> str:
        said = "\n\n".join(f"{TURNS[m.role]}: {m.content}" for m in prompt)
        return (
            f"{self.rubric.text.strip()}\n\n<conversation>\n{said}\n</conversation>\n\n<reply>\n{reply}\n</reply>\n\n"
            f"How good is the reply, from 1 (worst) to {self.rubric.points} (best)? Say the number only."
        )
