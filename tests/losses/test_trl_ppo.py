"""PPO's credit and losses are TRL 1.12's, by numbers that its own lines computed (`make_trl_ppo.py`)."""

import json
from pathlib import Path

import pytest
import torch

from align.losses import advantage, divergence, policy

FOUND = json.loads((Path(__file__).parent / "trl_ppo.json").read_text())
GIVEN = {name: torch.tensor(value, dtype=torch.double) for name, value in FOUND["given"].items()}


@pytest.mark.parametrize("case", FOUND["cases"], ids=lambda case: case["args"]["kl_estimator"])
def test_credit_and_losses_are_trls(case):
    args, made = case["args"], {name: torch.tensor(value, dtype=torch.double) for name, value in case["made"].items()}
    mask = torch.ones_like(GIVEN["logprobs"], dtype=torch.bool)
    kl = divergence.ESTIMATORS[args["kl_estimator"]](GIVEN["logprobs"], GIVEN["ref_logprobs"])
    torch.testing.assert_close(kl, made["kl"])
    rewards = -args["kl_coef"] * kl
    rewards[:, -1] += GIVEN["scores"]
    torch.testing.assert_close(rewards, made["rewards"])
    found = advantage.gae(rewards, GIVEN["values"], mask, args["gamma"], args["lam"])
    torch.testing.assert_close(found + GIVEN["values"], made["returns"])
    # TRL divides by the deviation of a sample, we by that of the step's own tokens.
    count = mask.sum()
    torch.testing.assert_close(advantage.whitened(found, mask), made["advantages"] * (count / (count - 1)).sqrt())
    losses = policy.clipped(GIVEN["new_logprobs"], GIVEN["logprobs"], made["advantages"], args["cliprange"])
    errors = policy.clipped_squared(GIVEN["vpred"], GIVEN["values"], made["returns"], args["cliprange_value"])
    torch.testing.assert_close(losses.mean(), made["pg_loss"])
    torch.testing.assert_close(errors.mean(), made["vf_loss"])
    torch.testing.assert_close((losses + args["vf_coef"] * errors).mean(), made["loss"])
    outside = policy.outside(GIVEN["new_logprobs"], GIVEN["logprobs"], made["advantages"], args["cliprange"])
    assert outside.any() and not outside.all()  # or nothing would show where the clip is
