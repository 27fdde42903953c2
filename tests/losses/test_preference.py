"""Losses on pairs, against numbers worked out by hand.

The pair used throughout has log-ratios chosen = 2 and rejected = -1; with beta = 0.5 the margin is 1.5, and
log sigmoid(1.5) = -log(1 + e^-1.5) = -0.201413, log sigmoid(-1.5) = -1.701413.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from align.losses import preference

CHOSEN, REJECTED = torch.tensor([2.0], dtype=torch.double), torch.tensor([-1.0], dtype=torch.double)


def close(found: Tensor, wanted: float) -> None:
    torch.testing.assert_close(found, torch.tensor([wanted], dtype=torch.double), atol=1e-6, rtol=0)


def test_dpo() -> None:
    close(preference.dpo(CHOSEN, REJECTED, 0.5), 0.201413)
    close(preference.dpo(CHOSEN, REJECTED, 0.5, smoothing=0.1), 0.9 * 0.201413 + 0.1 * 1.701413)


def test_dpo_at_the_reference_is_log_two_with_gradient_beta_half() -> None:
    """At log-ratios of 0 the loss is ln 2 and its derivative by the chosen log-ratio is -beta / 2."""
    chosen = torch.zeros(1, dtype=torch.double, requires_grad=True)
    loss = preference.dpo(chosen, torch.zeros(1, dtype=torch.double), 0.1)
    close(loss.detach(), math.log(2))
    loss.backward()
    close(chosen.grad, -0.05)  # type: ignore[arg-type]


def test_robust_dpo_is_unbiased_under_flipped_labels() -> None:
    """(1 - e) l(w, l) + e l(l, w) is the loss on clean labels: the point of arXiv:2403.00409."""
    close(preference.robust_dpo(CHOSEN, REJECTED, 0.5, 0.1), (0.9 * 0.201413 - 0.1 * 1.701413) / 0.8)
    right, wrong = (preference.robust_dpo(*pair, 0.5, 0.2) for pair in ((CHOSEN, REJECTED), (REJECTED, CHOSEN)))
    close(0.8 * right + 0.2 * wrong, 0.201413)


def test_smoothing_can_differ_from_pair_to_pair() -> None:
    both = preference.dpo(CHOSEN.repeat(2), REJECTED.repeat(2), 0.5, torch.tensor([0.0, 0.1], dtype=torch.double))
    torch.testing.assert_close(both, torch.tensor([0.201413, 0.351413], dtype=torch.double), atol=1e-6, rtol=0)


def test_ipo_is_least_at_its_target_margin() -> None:
    close(preference.ipo(CHOSEN, REJECTED, 0.5), (3 - 1) ** 2)
    close(preference.ipo(CHOSEN, REJECTED, 1 / 6), 0.0)


@pytest.mark.parametrize(("beta", "wanted"), [(0.1, 0.7), (0.5, 0.0)])
def test_hinge(beta: float, wanted: float) -> None:
    close(preference.hinge(CHOSEN, REJECTED, beta), wanted)


def test_simpo() -> None:
    """beta 2 x (-0.5 - -1.5) - gamma 0.5 = 1.5."""
    close(preference.simpo(CHOSEN - 2.5, REJECTED - 0.5, 2.0, 0.5), 0.201413)


def test_odds_ratio() -> None:
    """p = 1/2 has odds 1 and p = 1/5 has odds 1/4: -log sigmoid(log 4) = log(5 / 4)."""
    chosen, rejected = torch.tensor([0.5, 0.2], dtype=torch.double).log().split(1)
    close(preference.odds_ratio(chosen, rejected), math.log(5 / 4))


def test_odds_of_certainty_are_finite_with_a_finite_gradient() -> None:
    chosen = torch.zeros(1, requires_grad=True)
    loss = preference.odds_ratio(chosen, torch.tensor([-1.0]))
    loss.backward()
    assert loss.isfinite() and chosen.grad is not None and chosen.grad.isfinite()


def test_bradley_terry() -> None:
    close(preference.bradley_terry(CHOSEN, REJECTED, margin=1.5), 0.201413)
    # By 3 the chosen leads, so it clears the margin by 1.5; were the other the better one, it would miss it by 4.5.
    close(preference.bradley_terry(CHOSEN, REJECTED, 1.5, smoothing=0.5), (0.201413 + 4.511048) / 2)


def test_centering() -> None:
    close(preference.centering(CHOSEN, REJECTED), 1.0)
