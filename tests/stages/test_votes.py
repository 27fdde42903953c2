"""Votes of people, as the page exports them, train: the first step of RLHF."""

import math

from align.config import Data
from align.stages.dpo import DPO
from align.stages.reward_model import RewardModel
from align.stages.sft import SFT
from align.web.desk import Ballot, Poll
from align.web.items import Item, Reply
from align.web.results import Outcome
from align.web.votes import Log
from tests.stages.test_training import ASKED, BAD, GOOD, OPTIM, made
from tests.web.conftest import say


def test_what_people_said_trains_sft_a_reward_model_and_dpo(artifacts, context, tmp_path):
    items = [
        Item(
            say(asked), tuple(Reply(say(text, "assistant"), (name,)) for text, name in ((good, "a"), (bad, "b"))), asked
        )
        for asked, good, bad in zip(ASKED, GOOD, BAD, strict=True)
    ]
    log = Log(tmp_path / "votes" / "votes.jsonl")
    desk = Poll(items, log, 0)
    for annotator in ("ann", "bob"):
        while (item := desk.pending(annotator)) is not None:
            by_place = [item.replies[i].sources == ("b",) for i in desk.shown(annotator, item)]
            if annotator == "bob":
                said = {"correction": f"so very happy then {item.record}", "corrects": by_place.index(True)}
            else:
                said = {"ranks": tuple(map(int, by_place))}
            desk.vote(Ballot(annotator=annotator, item=item.id, **said))
    Outcome(log, tmp_path / "votes", "drop").export()
    inputs = artifacts | {name: Data(path=f"votes/{name}.jsonl") for name in ("preferences", "demonstrations")}
    fields = {"optim": OPTIM, "epochs": 8, "max_length": 64}
    for stage, data, metric in (
        (SFT, "$demonstrations", "loss"), (RewardModel, "$preferences", "accuracy"), (DPO, "$preferences", "accuracy"),
    ):  # fmt: skip
        _, steps = made(stage.model_validate({"policy": "$base", "data": data, **fields}), context, inputs)
        last = steps[-1]
        assert math.isfinite(last["loss"]) and last["loss"] < steps[0]["loss"]
        assert metric == "loss" or last[metric] == 1
