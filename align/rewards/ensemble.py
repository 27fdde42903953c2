"""Several rewards as one that trusts them less where they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from align.errors import CheckError
from align.records import Prompt
from align.rewards.base import Better, Reward


@dataclass(frozen=True)
class Ensemble:
    """The members' mean minus `pessimism` times their standard deviation (arXiv:2310.02743, uncertainty-weighted
    optimization with the deviation in place of the variance); NaN where a member has nothing to say.

    A member of which lower scores are better counts with its sign turned.
    """

    members: Sequence[Reward]
    pessimism: float
    name: str
    better: Better = "higher"

    def __call__(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
        signs = [_sign(member) for member in self.members]
        scores = np.array([member(prompts, replies) for member in self.members], float)  # (M, replies)
        scores *= np.array(signs)[:, None]
        return (scores.mean(0) - self.pessimism * scores.std(0)).tolist()


def _sign(member: Reward) -> int:
    if member.better is None:
        raise CheckError(f"ensemble: {member.name!r} calls no score better; write `better: higher` or `better: lower`")
    return -1 if member.better == "lower" else 1
