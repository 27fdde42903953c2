"""PPO learns: what it is rewarded for, from demonstrations, and from nothing but entropy."""

import json

import pytest

from align.errors import CheckError
from align.stages.ppo import PPO
from align.train.learner import Learner
from tests.stages.ppo.conftest import OPTIM, SAMPLING, STAGE, notes_of, steps_of


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo", "reinforce++"])
def test_it_raises_what_it_is_rewarded_for(advantage, inputs, context):
    """The share of happy words, on held-out prompts, beyond the interval; and says what people watch."""
    made = STAGE | {"sampling": SAMPLING | {"n": 4}, "steps": 12, "optim": OPTIM | {"lr": 5e-3}}
    stage = PPO(**made, advantage=advantage, held_out={"prompts": "$prompts", "every": 6}, show=5)
    ctx = context(inputs)
    metrics = stage.run(ctx)
    assert metrics["held_out_gain_low"] > 0.05
    assert "12 of 12 held-out prompts are trained on too" in notes_of(context)
    assert metrics["held_out_reward"] - metrics["held_out_reward_before"] == pytest.approx(metrics["held_out_gain"])
    steps = steps_of(context)
    assert [s["step"] for s in steps] == list(range(1, 13))
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-5) and steps[-1]["kl"] > 0.05
    watched = {
        "reward", "reward_happy", "kl", "entropy", "clip_fraction", "ratio", "approx_kl", "advantage",
        "advantage_spread", "tokens", "stop", "length_correlation", "drift", "rollout_tokens_per_second",
        "update_tokens_per_second",
    }  # fmt: skip
    assert watched <= steps[0].keys()
    assert ({"value_loss", "explained_variance"} <= steps[0].keys()) == (advantage == "gae")
    (halfway,) = (s for s in steps if "held_out_reward" in s)
    assert halfway["step"] == 6
    assert halfway["held_out_reward_low"] < halfway["held_out_reward"] < halfway["held_out_reward_high"]
    assert [e["step"] for e in context.events if e["event"] == "sample"] == [1, 5, 10]
    assert json.loads((ctx.out / "held_out.json").read_text())["reward"]["difference"]["n"] == 12
    assert [f.stem for f in sorted((ctx.out / "samples").iterdir())] == ["step-000001", "step-000005", "step-000010"]
    row = json.loads((ctx.out / "samples" / "step-000010.jsonl").read_text().splitlines()[0])
    assert row["policy"] == "step 10" and "happy" in row["scores"]


def test_a_policy_that_learns_from_demonstrations_too_says_what_they_say(inputs, context):
    """PPO-ptx on rewards that never differ: only the demonstrations teach."""
    made = STAGE | {"kl": {"coefficient": 0.0}, "advantage": "rloo", "sampling": SAMPLING | {"n": 2}, "epochs": 4}
    nothing = {"rule": "happy", "scale": 0.0}
    PPO(**made | {"reward": nothing}, ptx={"data": "$shown"}).run(context(inputs))
    losses = [s["ptx_loss"] for s in steps_of(context)]
    assert losses[-1] < 0.5 * losses[0]
    with pytest.raises(CheckError, match=r"an update learns from 9 demonstrations .* but there are only 6"):
        stage = PPO(**made | {"optim": OPTIM | {"batch_size": 9}, "minibatches": 1}, ptx={"data": "$shown"})
        stage.check(context(inputs))


def test_an_entropy_bonus_teaches_where_all_replies_did_equally_well(inputs, context):
    """Without one there is nothing to learn from, and no update is made."""
    made = STAGE | {"kl": {"coefficient": 0.0}, "advantage": "rloo", "sampling": SAMPLING | {"n": 2}, "steps": 1}
    for entropy, updates in ((0.0, 0), (0.1, 4)):
        PPO(**made | {"reward": {"rule": "happy", "scale": 0.0}}, entropy=entropy).run(context(inputs))
        assert [s["updates"] for s in steps_of(context)] == [updates]


def test_a_sum_of_rewards_shows_each_part(inputs, context):
    """Happy words count 2, and each word costs a tenth, for of `short` the lower is the better."""
    parts = [{"from": "happy", "weight": 2}, {"from": "short", "weight": 0.1}]
    stage = PPO(**STAGE | {"reward": parts, "steps": 1}, missing_eos_penalty=1)
    stage.run(context(inputs))
    (step,) = steps_of(context)
    expected = 2 * step["reward_happy"] - 0.1 * step["reward_short"] - (1 - step["stop"])
    assert step["reward"] == pytest.approx(expected)


def test_the_longest_rows_that_can_come_are_tried_out_before_the_first_update(inputs, context, monkeypatch):
    """Trap 26: the longest prompt has 12 words between `User:` and `Assistant:`, and replies may have 8 tokens."""
    seen = []

    def look(kind):
        whole = getattr(Learner, kind)

        def looked(self, objective, trees, *rest):
            replies = [len(reply.ids) for tree in trees for reply in tree.replies]
            seen.append((kind, len(trees), max(len(tree.prompt) for tree in trees), max(replies)))
            return whole(self, objective, trees, *rest)

        monkeypatch.setattr(Learner, kind, looked)

    for kind in ("rehearse", "update"):
        look(kind)
    PPO(**STAGE | {"sampling": SAMPLING | {"n": 2}}, ptx={"data": "$shown"}).run(context(inputs))
    assert seen[0] == ("rehearse", 4, 14, 8)
    assert [kind for kind, *_ in seen] == ["rehearse"] * 2 + ["update"] * 12, "the demonstrations, too, and once only"
