"""Rewards that rise while what they stand for does not."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from align.errors import Interrupted
from align.stages.ppo import PPO
from align.train.hacking import Watch
from tests.stages.ppo.conftest import OPTIM, STAGE, notes_of, steps_of, tensors


def test_a_hacked_reward_is_found_out(inputs, context):
    """What is only watched is the share of sober words, which falls as that of happy ones rises."""
    made = STAGE | {"steps": 12, "optim": OPTIM | {"lr": 1e-2}, "epochs": 4}
    stage = PPO(**made, watch=["sober"], held_out={"prompts": "$prompts"})
    stage.check(context(inputs))
    metrics = stage.run(context(inputs))
    first, *_, last = steps_of(context)
    assert first["reward"] == first["reward_happy"] and last["reward_sober"] < first["reward_sober"]
    assert metrics["hacked"] == 1
    assert "what is only watched got worse: 'sober' by -" in notes_of(context)


def test_training_stops_at_a_hacked_reward_and_goes_back(inputs, context):
    """To the weights of the last examination that was above suspicion, or of none but that before training."""
    made = STAGE | {"steps": 12, "optim": OPTIM | {"lr": 1e-2}, "epochs": 4, "hacking": {"then": "stop"}}
    stage = PPO(**made, watch=["sober"], held_out={"prompts": "$prompts", "every": 4})
    ctx = context(inputs)
    metrics = stage.run(ctx)
    steps = steps_of(context)
    assert metrics["hacked"] == 1 and metrics["steps"] == steps[-1]["step"] - 4 < 8
    before = {0: metrics["held_out_reward_before"]} | {s["step"]: s.get("held_out_reward") for s in steps}
    assert metrics["held_out_reward"] == pytest.approx(before[metrics["steps"]], abs=1e-6)
    assert "'sober' by -" in notes_of(context) and "; training ends" in notes_of(context)
    verdict = json.loads((ctx.out / "held_out.json").read_text())["verdict"]
    weights = tensors(ctx.out)
    assert verdict["hacked"] and "'sober'" in verdict["signs"][0] and verdict["steps"] == metrics["steps"]

    asked = []  # to stop in the first examination after training began, and ever since

    def stopping() -> bool:
        asked.extend(e for e in context.events[-1:] if e.get("what") == "held-out prompts" and steps_of(context))
        return bool(asked)

    for folder in (ctx.work, ctx.out):
        shutil.rmtree(folder)
    with pytest.raises(Interrupted):
        stage.run(dataclasses.replace(context(inputs), stopping=stopping))
    ctx = context(inputs)
    assert stage.run(ctx) == metrics
    assert all(torch.equal(weights[name], tensor) for name, tensor in tensors(ctx.out).items())


def test_what_is_gone_back_to_is_what_the_checkpoint_knew(inputs, context, monkeypatch):
    """On a GPU a run that goes on is not the same to the bit: what was above suspicion before the kill, after the
    checkpoint that it goes on from, may not be so again."""

    class Killed(BaseException):
        pass

    def killed(event, **values):
        if event == "step" and values["step"] == 5:
            raise Killed

    made = STAGE | {"steps": 6, "hacking": {"then": "stop"}, "checkpoint": {"every": 3}}
    stage = PPO(**made, held_out={"prompts": "$prompts", "every": 2})
    with pytest.raises(Killed):
        stage.run(dataclasses.replace(context(inputs), emit=killed))
    monkeypatch.setattr(Watch, "signs", lambda self, account, after: ["as it seems"])
    ctx = context(inputs)
    assert stage.run(ctx)["steps"] == 2
    found = tensors(ctx.out)
    for folder in (ctx.work, ctx.out):
        shutil.rmtree(folder)
    ctx = context(inputs)
    PPO(**STAGE | {"steps": 2}).run(ctx)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors(ctx.out).items())


def test_a_reward_that_proves_to_be_hacked_in_the_end_is_gone_back_from_too(inputs, context):
    made = STAGE | {"steps": 8, "optim": OPTIM | {"lr": 1e-2}, "epochs": 4, "hacking": {"then": "stop"}}
    ctx = context(inputs)
    metrics = PPO(**made, watch=["sober"], held_out={"prompts": "$prompts", "every": 8}).run(ctx)
    assert metrics["hacked"] == 1 and metrics["steps"] == 0
    assert metrics["held_out_reward"] == metrics["held_out_reward_before"]
    parent, found = load_file(inputs["base"].path / "model" / "model.safetensors"), tensors(ctx.out)
    assert all(torch.equal(tensor, found[f"model/{name}"]) for name, tensor in parent.items())
