"""Losses of policies and critics, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from align.losses import policy

LOG = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1, 1.0], dtype=torch.double).log()
"""Log-ratios: four outside 0.8..1.2, two inside."""
ADVANTAGES = torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0, -3.0], dtype=torch.double)
OLD = torch.full((6,), -1.7, dtype=torch.double)


def test_clipped() -> None:
    """min(r A, clip(r) A): 1.5 x 2 is held at 1.2 x 2; 1.5 x -2 counts in full; so does 0.5 x 2; 0.5 x -2 is held."""
    wanted = torch.tensor([-2.4, 3.0, -1.0, 1.6, -2.2, 3.0], dtype=torch.double)
    torch.testing.assert_close(policy.clipped(OLD + LOG, OLD, ADVANTAGES, 0.2), wanted)
    assert policy.outside(OLD + LOG, OLD, ADVANTAGES, 0.2).tolist() == [True, False, False, True, False, False]


def test_clipped_tokens_have_no_gradient_and_the_first_step_is_that_of_the_policy_gradient() -> None:
    """The derivative of -r A by log r is -r A: 0 where clipped, and -A at r = 1."""
    logp = (OLD + LOG).requires_grad_()
    policy.clipped(logp, OLD, ADVANTAGES, 0.2).sum().backward()
    torch.testing.assert_close(logp.grad, torch.tensor([0.0, 3.0, -1.0, 0.0, -2.2, 3.0], dtype=torch.double))


@pytest.mark.parametrize(("value", "error"), [(2.0, 2.8), (1.1, 2.9), (4.0, 2.8), (0.0, 4.0)])
def test_clipped_squared(value: float, error: float) -> None:
    """Old value 1, return 4, clip 0.2: 2 and 4 are held at 1.2, which is worse; 1.1 stays; 0, the wrong way, counts
    in full although 0.8 would be better."""
    one = torch.ones(1, dtype=torch.double)
    torch.testing.assert_close(policy.clipped_squared(one * value, one, one * 4, 0.2), one * error**2 / 2)


def test_squared() -> None:
    torch.testing.assert_close(policy.squared(torch.tensor([3.0]), torch.tensor([1.0])), torch.tensor([2.0]))
