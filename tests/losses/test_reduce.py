"""Sums and counts over replies, and the token losses that they are made of."""

from __future__ import annotations

import math

import torch

from align.losses import divergence, language, reduce

VALUES, OWNER = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 2])


def test_values_are_added_up_by_their_owner() -> None:
    assert reduce.per_reply(VALUES, OWNER, 4).tolist() == [3.0, 0.0, 4.0, 0.0]
    assert reduce.lengths(OWNER, 4).tolist() == [2, 0, 1, 0]


def test_a_reply_without_scored_tokens_has_mean_zero() -> None:
    sums, counts = reduce.per_reply(VALUES, OWNER, 4), reduce.lengths(OWNER, 4)
    assert reduce.per_token(sums, counts).tolist() == [1.5, 0.0, 4.0, 0.0]


def test_nll_takes_weights() -> None:
    assert language.nll(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 0.5])).tolist() == [1.0, 1.0]


def test_estimates_of_kl_average_to_kl() -> None:
    """Policy (1/2, 1/2) and reference (1/4, 3/4): KL = log(2 / sqrt 3), by summing over both outcomes."""
    policy, reference = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    for estimate in (divergence.kl, divergence.kl_positive):
        mean = (policy.exp() * estimate(policy, reference)).sum()
        torch.testing.assert_close(mean.item(), math.log(2 / math.sqrt(3)), atol=1e-6, rtol=0)
    assert (divergence.kl_positive(policy, reference) >= 0).all()
