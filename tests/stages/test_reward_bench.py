"""Stages `reward_bench` and `gate`: what passes is the reward itself, what does not stops whoever needs it."""

import json

import pytest

from align.config import Data
from align.errors import CheckError
from align.models.heads import load_reward
from align.records import Message, Prompt
from align.rewards.base import load
from align.stage import RewardRef
from align.stages.reward_bench import Gate, RewardBench
from align.store import MANIFEST, Artifact


@pytest.fixture
def pairs(rows):
    """The longer reply is the better one in three of four."""
    made = [{"input": "the cat", "output_1": "sat on the mat", "output_2": "ran", "label": 1, "set": "long"}] * 3
    made += [{"input": "a dog", "output_1": "sat on the mat", "output_2": "ran", "label": 2, "set": "short"}]
    return rows("pairs", *({**row, "input": f"{row['input']} {'so ' * i}"} for i, row in enumerate(made)))


def test_rewards_are_measured_by_source(artifacts, pairs, context):
    ctx = context(artifacts | {"pairs": pairs})
    long = {"rule": "length", "better": "higher", "name": "long"}
    stage = RewardBench(rewards=["$judge", long], data="$pairs", tag="set")
    assert stage.check(ctx) == {"pairs": 4}
    metrics = stage.run(ctx)
    found = json.loads((ctx.out / "reward_bench.json").read_text())
    assert metrics["long/accuracy"] == found["long"]["accuracy"] == 0.75
    assert {tag: v["accuracy"] for tag, v in found["long"]["tags"].items()} == {"long": 1.0, "short": 0.0}
    assert found["long"]["length_lead"] == 0 and found["long"]["length_correlation"] == pytest.approx(1)
    assert 0 <= found["judge"]["accuracy"] <= 1 and found["judge"]["brier"] >= 0
    with pytest.raises(CheckError, match="'length' calls no score better"):
        RewardBench(rewards=["length"], data="$pairs").run(ctx)


def test_a_gate_passes_the_reward_on_or_stops_what_needs_it(artifacts, pairs, context):
    ctx = context(artifacts | {"pairs": pairs})
    metrics = Gate(reward="$judge", data="$pairs", least={"accuracy": 0.0}).run(ctx)
    assert metrics["gate_pairs"] == 4
    passed = Artifact("reward", "key", ctx.out)
    assert not (ctx.out / MANIFEST).exists() and load_reward(passed).has_head
    there = context({"judge": artifacts["judge"], "passed": passed})
    prompt = Prompt("1", (Message("user", "a cat"),))
    one, other = (load(RewardRef(name), there)([prompt], ["sat on the mat"]) for name in ("judge", "passed"))
    assert one == other
    strict = Gate(reward="$judge", data="$pairs", least={"accuracy": 1.01, "pairs": 3}, most={"unscored": -1})
    with pytest.raises(
        CheckError, match=r"'judge' does not pass: accuracy is .*, not at least 1.01; unscored is 0, not"
    ):
        strict.run(context(artifacts | {"pairs": pairs}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({}, "needs `least` or `most`"), ({"least": {"acuracy": 0.5}}, "Did you mean 'accuracy'"),
     ({"most": {"tags": 0.5}}, "no metric is called 'tags'")],
)  # fmt: skip
def test_a_gate_asks_for_what_is_measured(fields, message):
    with pytest.raises(ValueError, match=message):
        Gate(reward="$judge", data="$pairs", **fields)


def test_people_who_ranked_open_assistants_replies_prefer_the_longer_one(shared, context):
    file, wins = shared / "data/open-assistant/en_100_tree.jsonl", []

    def walk(node):
        by_rank = sorted((r["rank"], len(r["text"].split())) for r in node["replies"] if r.get("rank") is not None)
        if node["role"] == "prompter" and len(by_rank) > 1:
            wins.append((by_rank[0][1] > by_rank[-1][1]) + (by_rank[0][1] == by_rank[-1][1]) / 2)
        for reply in node["replies"]:
            walk(reply)

    for line in file.read_text().splitlines():
        walk(json.loads(line)["prompt"])
    ctx = context({"trees": Data(path=str(file))})
    longer = {"rule": "length", "better": "higher", "name": "longer"}
    metrics = RewardBench(rewards=[longer], data="$trees", tag="turn").run(ctx)
    assert (metrics["longer/pairs"], len(wins)) == (212, 212)
    assert metrics["longer/accuracy"] == pytest.approx(sum(wins) / 212) == pytest.approx(0.783, abs=5e-4)
    by_turn = json.loads((ctx.out / "reward_bench.json").read_text())["longer"]["tags"]
    assert {turn: of["n"] for turn, of in by_turn.items()} == {"1": 99, "2": 111, "3": 2}
