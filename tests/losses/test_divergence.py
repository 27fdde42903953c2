"""KL estimates, against the KL itself, summed over a vocabulary of three."""

from __future__ import annotations

import math

import pytest
import torch

from align.losses import divergence

POLICY = torch.tensor([0.5, 0.3, 0.2], dtype=torch.double)
REFERENCE = torch.tensor([0.4, 0.4, 0.2], dtype=torch.double)
EXACT = 0.5 * math.log(0.5 / 0.4) + 0.3 * math.log(0.3 / 0.4)


def test_by_hand() -> None:
    """Log-ratio ln 2: ln 2, (ln 2)^2 / 2, and 1/2 - 1 + ln 2."""
    pair = torch.tensor([-1.0], dtype=torch.double), torch.tensor([-1.0 - math.log(2)], dtype=torch.double)
    assert divergence.kl(*pair).item() == pytest.approx(0.693147, abs=1e-6)
    assert divergence.kl_squared(*pair).item() == pytest.approx(0.240227, abs=1e-6)
    assert divergence.kl_positive(*pair).item() == pytest.approx(0.193147, abs=1e-6)


@pytest.mark.parametrize("estimate", [divergence.kl, divergence.kl_positive])
def test_unbiased(estimate) -> None:
    found = (POLICY * estimate(POLICY.log(), REFERENCE.log())).sum().item()
    assert found == pytest.approx(EXACT, abs=1e-12)


@pytest.mark.parametrize(
    ("estimate", "of"), [(divergence.kl, "nothing"), (divergence.kl_squared, "kl"), (divergence.kl_positive, "reverse")]
)
def test_gradients_averaged_over_own_samples(estimate, of) -> None:
    """By logits z with p = softmax(z): d KL(p || q) / dz = p (log p/q - KL), d KL(q || p) / dz = p - q."""
    logits = POLICY.log().requires_grad_()
    logp = logits.log_softmax(-1)
    (POLICY * estimate(logp, REFERENCE.log())).sum().backward()  # POLICY holds the sampling fixed
    wanted = {
        "nothing": torch.zeros(3, dtype=torch.double),
        "kl": POLICY * ((POLICY / REFERENCE).log() - EXACT),
        "reverse": POLICY - REFERENCE,
    }[of]
    torch.testing.assert_close(logits.grad, wanted, atol=1e-12, rtol=0)


def test_adapted() -> None:
    """KL of 0.11 for 0.1 is 10 % too much: 1 % more. Errors count up to 20 %: 2 %."""
    assert divergence.adapted(0.5, 0.11, 0.1) == pytest.approx(0.505)
    assert divergence.adapted(0.5, 9.0, 0.1) == pytest.approx(0.51)
    assert divergence.adapted(0.5, -1.0, 0.1) == pytest.approx(0.49)
