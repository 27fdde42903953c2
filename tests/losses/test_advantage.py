"""Advantages, against numbers worked out by hand; masked tokens are as if they were not there."""

from __future__ import annotations

import math

import torch

from align.losses import advantage

REWARDS = torch.tensor([[0.0, 0.0, 1.0], [2.0, math.nan, math.nan]], dtype=torch.double)
VALUES = torch.tensor([[0.5, 0.4, 0.8], [0.5, math.nan, 7.0]], dtype=torch.double)
MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_the_score_is_earned_at_the_last_token_and_every_token_has_its_price() -> None:
    """3 + 0.2 and 2 - 0.1: a price below 0 pays. The second reply is one token long."""
    price = torch.tensor([[0.1, 0.0, -0.2], [0.1, math.nan, 9.0]], dtype=torch.double)
    wanted = torch.tensor([[-0.1, 0.0, 3.2], [1.9, 0.0, 0.0]], dtype=torch.double)
    torch.testing.assert_close(advantage.earned(torch.tensor([3.0, 2.0], dtype=torch.double), price, MASK), wanted)


def test_gae() -> None:
    """gamma 0.9, lambda 0.5. Errors of the first reply: 0.9 x 0.4 - 0.5 = -0.14, 0.9 x 0.8 - 0.4 = 0.32, 1 - 0.8 = 0.2.
    Summed with factor 0.45: 0.2, 0.32 + 0.09 = 0.41, -0.14 + 0.1845 = 0.0445. The second has one token: 2 - 0.5."""
    wanted = torch.tensor([[0.0445, 0.41, 0.2], [1.5, 0.0, 0.0]], dtype=torch.double)
    torch.testing.assert_close(advantage.gae(REWARDS, VALUES, MASK, 0.9, 0.5), wanted)


def test_gae_with_decay_1_is_the_return_less_the_value_and_with_0_the_one_step_error() -> None:
    returns = advantage.returns_to_go(REWARDS, MASK, 0.9)
    torch.testing.assert_close(returns, torch.tensor([[0.81, 0.9, 1.0], [2.0, 0.0, 0.0]], dtype=torch.double))
    torch.testing.assert_close(advantage.gae(REWARDS, VALUES, MASK, 0.9, 1.0)[MASK], (returns - VALUES)[MASK])
    wanted = torch.tensor([-0.14, 0.32, 0.2, 1.5], dtype=torch.double)
    torch.testing.assert_close(advantage.gae(REWARDS, VALUES, MASK, 0.9, 0.0)[MASK], wanted)


def test_a_masked_tail_is_as_if_cut_off() -> None:
    short = (REWARDS[1:, :1], VALUES[1:, :1], MASK[1:, :1])
    torch.testing.assert_close(advantage.gae(REWARDS, VALUES, MASK, 0.9, 0.5)[1:, :1], advantage.gae(*short, 0.9, 0.5))


def test_rloo() -> None:
    """Of 1, 2, 6 the others' means are 4, 3.5, 1.5. Advantages of a group sum to 0."""
    found = advantage.rloo(torch.tensor([[1.0, 2.0, 6.0]]))
    torch.testing.assert_close(found, torch.tensor([[-3.0, -1.5, 4.5]]))


def test_grpo() -> None:
    """1, 2, 3 have mean 2 and standard deviation 1; equal scores say nothing."""
    found = advantage.grpo(torch.tensor([[1.0, 2.0, 3.0], [0.7, 0.7, 0.7]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), atol=2e-4, rtol=0)


def test_whitened() -> None:
    """1, 3, 5, 7 have mean 4 and variance 5."""
    values = torch.tensor([[1.0, 3.0, 99.0], [5.0, 7.0, math.nan]], dtype=torch.double)
    mask = torch.tensor([[True, True, False]] * 2)
    wanted = torch.tensor([-3, -1, 1, 3], dtype=torch.double) / math.sqrt(5)
    found = advantage.whitened(values, mask)
    torch.testing.assert_close(found[mask], wanted, atol=1e-8, rtol=0)
    assert not found[~mask].any()
    torch.testing.assert_close(advantage.whitened(values, mask, centre=False)[mask], wanted + 4, atol=1e-8, rtol=0)


def test_equal_values_whiten_to_zero_and_not_to_nan() -> None:
    assert not advantage.whitened(torch.full((2, 2), 0.3), torch.ones(2, 2, dtype=torch.bool)).any()
