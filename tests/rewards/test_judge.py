"""Judges as rewards: the expected score under the judge's own probabilities, asked over real HTTP."""

from math import log

import pytest

from align.data import read_file
from align.rewards.base import RewardSpec
from align.stages.sample import SampleReplies
from tests.generate.servers import saying, serving
from tests.stages.conftest import artifacts, context, rows  # noqa: F401

RUBRIC = {
    "model": "$far", "text": "Kind replies are good.", "points": 3,
    "examples": [{"prompt": "hi", "reply": "go away", "score": 1}],
}  # fmt: skip


def judge(body):
    """Sure of nothing about long questions, of 2 or 3 about others; silent about a cat."""
    asked = body["messages"][-1]["content"]
    if "cat" in asked:
        return saying("I'd rather not.")
    shares = {"2": 0.25, "3": 0.75} if "dog" in asked else {"1": 0.2, "2": 0.2, "3": 0.2, "x": 0.4}
    top = [{"token": name, "logprob": log(share)} for name, share in shares.items()]
    return saying("3") | {"logprobs": {"content": [top[-1] | {"top_logprobs": top}]}}


def test_a_judge_scores_replies_as_any_reward_does(artifacts, rows, context):  # noqa: F811
    with serving(judge) as served:
        prompts = rows("asked", {"prompt": "the dog"}, {"prompt": "a cat"}, {"prompt": "so very"})
        ctx = context(artifacts | {"far": served.endpoint(), "prompts": prompts})
        spec = {"judge": RUBRIC, "name": "kind"}
        drawn = {"n": 2, "max_new_tokens": 1}
        stage = SampleReplies(policy="$base", prompts="$prompts", rewards=[spec], sampling=drawn)
        assert [path for path, reference in stage.references() if reference.name == "far"] == ["rewards.0.judge.model"]
        stage.run(ctx)
        asked = served.bodies[0]["messages"]
    found = {s.prompt[0].content: s.scores for s in read_file(ctx.out / "records.jsonl")}
    assert found["a cat"] == {}, "an answer that is no number is no score"
    assert found["the dog"]["kind"] == pytest.approx(0.25 * 2 + 0.75 * 3, abs=1e-6)
    assert found["so very"]["kind"] == pytest.approx(2.0, abs=1e-6)
    assert any("2 of 6 replies get no score" in event.get("text", "") for event in context.events)
    assert [m["role"] for m in asked] == ["user", "assistant", "user"] and asked[1]["content"] == "1"
    assert "<reply>\ngo away\n</reply>" in asked[0]["content"] and "User: the dog" in asked[2]["content"]
    assert all("Kind replies are good." in m["content"] and "best)" in m["content"] for m in (asked[0], asked[2]))


def test_an_example_beyond_the_scale_is_refused():
    wrong = RUBRIC | {"examples": [{"prompt": "a", "reply": "b", "score": 4}]}
    with pytest.raises(ValueError, match="a score of 4, but points go to 3"):
        RewardSpec.model_validate({"judge": wrong})
