"""Signs of a hacked reward, from accounts of held-out prompts written by hand."""

from __future__ import annotations

import re

import pytest

from align.rewards.base import Rule
from align.train.hacking import Watch
from align.train.online_fields import Hacking


def account(low: float = 0.1, quality: tuple[float, float] = (-0.1, 0.1), kl: float = 0.2) -> dict:
    return {
        "reward": {"difference": {"difference": low + 0.1, "low": low, "high": low + 0.2}},
        "reward_quality": {"difference": {"difference": sum(quality) / 2, "low": quality[0], "high": quality[1]}},
        "kl": {"after": {"value": kl}},
    }


def answered(*rewards: float) -> dict:
    return {"reward": {"total": list(rewards)}, "tokens": {"total": [1.0, 2.0, 3.0, 4.0]}}


MIXED = answered(1, -1, -1, 1)


@pytest.mark.parametrize(
    ("limits", "found", "after", "better", "sign"),
    [
        ({}, account(), MIXED, "higher", None),
        ({}, account(quality=(-0.3, -0.1)), MIXED, "higher", r"'quality' by -0.2 \[-0.3, -0.1\]"),
        ({}, account(quality=(-0.3, -0.1)), MIXED, "lower", None),
        ({}, account(quality=(0.1, 0.3)), MIXED, "lower", "'quality' by "),
        ({}, account(low=-0.1, quality=(-0.3, -0.1)), MIXED, "higher", None),
        ({"max_kl": 0.1}, account(), MIXED, "higher", r"KL is 0.2 nats a token \(max_kl 0.1\)"),
        ({"max_kl": 0.3}, account(), MIXED, "higher", None),
        ({"max_kl": 0.1}, account(low=-0.1), MIXED, "higher", None),
        ({"max_length_correlation": 0.9}, account(), answered(1, 2, 3, 4), "higher", r"correlate by \+1.00"),
        ({"max_length_correlation": 0.9}, account(), answered(4, 3, 2, 1), "higher", r"correlate by -1.00"),
        ({"max_length_correlation": 0.9}, account(), MIXED, "higher", None),
    ],
)
def test_signs(limits, found, after, better, sign):
    watched = Rule("quality", lambda prompt, reply: 0.0, better)
    signs = Watch(Hacking(**limits), [watched]).signs(found, after)
    assert len(signs) == (sign is not None)
    if sign:
        assert re.search(sign, signs[0])
