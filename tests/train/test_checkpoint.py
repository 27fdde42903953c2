"""Checkpoints hold what trains, by name, whatever else a model's state holds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from align.errors import TrainingError
from align.train import checkpoint as checkpoints
from align.train.objectives import next_token
from tests.train.test_fit import learner, model, trees, weights


class FourBit(nn.Linear):
    """Adds a tensor to its state that is no attribute of it, as bitsandbytes does."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight.absmax"] = torch.ones(1)


def partly_frozen(seed: int = 0):
    module = model(seed)
    for layer in module.model.model.layers:
        narrow = FourBit(16, 16, bias=False)
        narrow.load_state_dict({"weight": layer.self_attn.o_proj.weight}, strict=False)
        layer.self_attn.o_proj = narrow.requires_grad_(False)
    return module


def test_frozen_modules_with_a_state_of_their_own_are_no_hindrance(tmp_path):
    straight = partly_frozen()
    fitted = learner(straight)
    fitted.update(next_token, trees(8))
    checkpoints.save(tmp_path, fitted, {}, keep=1)
    fitted.update(next_token, trees(8, 1))
    resumed = partly_frozen()
    went_on = learner(resumed)
    checkpoints.load(tmp_path, went_on)
    went_on.update(next_token, trees(8, 1))
    found = weights(resumed)
    assert all(torch.equal(p, found[name]) for name, p in weights(straight).items())


def test_tensors_that_do_not_match_are_never_passed_over(tmp_path):
    """Another set of trainable tensors than the checkpoint's, either way, is an error."""
    folders = {"whole": model(), "part": partly_frozen()}
    for name, module in folders.items():
        checkpoints.save(tmp_path / name, learner(module), {}, keep=1)
    for name, module in (("whole", partly_frozen()), ("part", model())):
        with pytest.raises(TrainingError, match="2 tensors are missing, left over or of another shape.*o_proj"):
            checkpoints.load(tmp_path / name, learner(module))
