"""PPO that was stopped goes on without a trace."""

import dataclasses
import json

import pytest
import torch

from align.errors import Interrupted
from align.stages.ppo import PPO
from tests.stages.ppo.conftest import LORA, ONE_BACKBONE, SAMPLING, STAGE, steps_of, tensors

FORMS = {
    "critic of its own": {
        "value": {"start": "policy", "lr": 1e-2},
        "kl": {"target": 0.01},
        "sampling": SAMPLING | {"temperature": 0.8},
    },
    "shared critic, lora": {"value": {"start": "shared"}, "lora": LORA, "kl": {"target": 0.01}},
    "one backbone, demonstrations": ONE_BACKBONE | {"ptx": {"data": "$shown"}, "normalize_rewards": True},
    "critic from the reward": {"reward": "$judge", "doubtful_reward": "allow"},
    "rloo, early stops": {"advantage": "rloo", "sampling": SAMPLING | {"n": 2}, "stop_kl": 1e-3},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("moment", ["after step 1", "in the rollout of step 3"])
def test_a_stage_that_was_stopped_ends_with_the_same_bits(form, moment, inputs, context, tmp_path):
    """Trap 16: policy, critic, both optimizers, the KL controller, the running normalisation and the cursors of prompts
    and demonstrations go on, between steps and within one."""
    stage = PPO(**STAGE | FORMS[form], held_out={"prompts": "$prompts"})
    ctx = context(inputs)
    whole = stage.run(ctx)
    straight, weights = steps_of(context), tensors(ctx.out)
    ctx.out.rename(tmp_path / "straight")
    steps, rollout = {"after step 1": (1, None), "in the rollout of step 3": (2, "rollout")}[moment]

    def stopping() -> bool:
        return len(steps_of(context)) == steps and context.events[-1].get("what") == rollout

    with pytest.raises(Interrupted, match=f"after step {steps} of 3"):
        stage.run(dataclasses.replace(context(inputs), stopping=stopping))
    done = len(steps_of(context))
    assert done == steps
    assert context.events[-1]["event"] == "saved"
    (saved,) = (ctx.work / "checkpoints").iterdir()
    state = json.loads((saved / "complete.json").read_text())["state"]
    assert state["scores"]["count"] == (8 * done if stage.normalize_rewards else 0)  # all replies so far
    ctx = context(inputs)
    again = stage.run(ctx)
    resumed = steps_of(context)
    assert [s["step"] for s in resumed] == [1, 2, 3][done:]
    timeless = {k for k in straight[0] if not k.endswith(("second", "left"))}
    assert [{k: s[k] for k in timeless} for s in resumed] == [{k: s[k] for k in timeless} for s in straight[done:]]
    assert again == whole
    found = tensors(ctx.out)
    assert weights.keys() == found.keys() and all(torch.equal(weights[name], found[name]) for name in weights)
