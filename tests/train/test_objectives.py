"""Objectives: what a pair's label, weight and margin count, by hand, on a model whose numbers are given."""

from __future__ import annotations

from math import exp, log1p

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from align.data.tree import Batch, Reply, Tree, collate
from align.models.logprobs import Scored
from align.train.objectives import bradley_terry, direct_preference


class Says(nn.Module):
    """Log-probs of tokens, or scores of replies, in the order of the batch."""

    def __init__(self, *numbers: float, scores: bool = False):
        super().__init__()
        self.numbers, self.scores = torch.tensor(numbers), scores

    def forward(self, batch: Batch) -> Tensor | Scored:
        return self.numbers if self.scores else Scored(self.numbers, None)


def pairs(*numbers: dict[str, float]) -> Batch:
    """Pairs of a chosen reply of two tokens and a rejected one of one."""
    usual = {"reference_chosen": -3.0, "reference_rejected": -2.0, "label": 1.0, "weight": 1.0, "margin": 0.0}
    two, one = np.array([5, 6], np.int32), np.array([7], np.int32)
    return collate([Tree(str(i), two, (Reply(two), Reply(one)), usual | given) for i, given in enumerate(numbers)])


def softplus(x: float) -> float:
    """-log sigmoid(-x)."""
    return log1p(exp(x))


@pytest.mark.parametrize(
    ("loss", "smoothing", "expected"),
    [
        # Log-ratios are 1 and -1, so the margin is 0.5 x 2 = 1. Of a label of 0.8, smoothed by 0.1, 0.26 is wrong.
        ("sigmoid", 0.0, 3 * (0.8 * softplus(-1) + 0.2 * softplus(1))),
        ("sigmoid", 0.1, 3 * (0.74 * softplus(-1) + 0.26 * softplus(1))),
        ("robust", 0.1, 3 * (0.74 * softplus(-1) - 0.26 * softplus(1)) / 0.48),
        # Means are -1 and -3: a margin of 0.5 x 2 = 1.
        ("simpo", 0.1, 3 * (0.74 * softplus(-1) + 0.26 * softplus(1))),
    ],
)
def test_a_soft_label_and_a_weight_count(loss: str, smoothing: float, expected: float) -> None:
    batch = pairs({"label": 0.8, "weight": 3.0}, {"weight": 0.0})
    found = direct_preference(loss, 0.5, smoothing)(Says(-0.5, -1.5, -3.0, -9.0, -9.0, -9.0), batch)
    assert found.total.item() == pytest.approx(expected, abs=1e-6)
    assert found.count.item() == 2, "the mean is over pairs, whatever they weigh"


def test_a_reward_model_counts_labels_weights_margins_and_its_centre() -> None:
    """Scores of 2 and 1 lead by 1; a margin of 0.5 x 2 asks for 1, and centering adds 0.1 x 3^2."""
    batch = pairs({"label": 0.8, "weight": 3.0, "margin": 2.0}, {"weight": 0.0})
    found = bradley_terry(0.1, 0.5)(Says(2.0, 1.0, 9.0, -9.0, scores=True), batch)
    assert found.total.item() == pytest.approx(3 * (0.8 * softplus(0) + 0.2 * softplus(2) + 0.9), abs=1e-6)
    assert found.count.item() == 2
