"""Constitutional stages and models behind a server: the same over real HTTP, on a line that fails now and then."""

import json
import shutil
from math import log

import pytest

from align.data import read_file
from align.errors import CheckError
from align.generate import server as server_module
from align.generate.hf import HFGenerator
from align.models.policy import load_policy
from align.records import Message, Sample
from align.stages.ai_feedback import AIFeedback
from align.stages.critique_revise import CritiqueRevise
from tests.generate.servers import saying, serving, tiny_model

FAILURES = {1: "cut", 3: "busy", 4: "broken", 8: "garbage"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.01)


def unsteady(number):
    return FAILURES.get(number, "fine")


def transcripts(ctx, **fields):
    """What the stage wrote down of each prompt, whether or not anything of it is fit to be imitated."""
    given = {"prompts": "$prompts", "constitution": "toy", "sampling": {"max_new_tokens": 8, "temperature": 0}}
    try:
        CritiqueRevise.model_validate(given | fields).run(ctx)
    except CheckError as error:
        assert "no revision is left" in str(error)
    rows = (ctx.work / "criticising-and-revising.jsonl").read_text().splitlines()
    shutil.rmtree(ctx.work)
    return [json.loads(row) for row in rows]


def test_a_served_critic_revises_as_it_does_in_this_process(artifacts, prompts, context):
    local = transcripts(context(artifacts | {"prompts": prompts}), policy="$base", critic="$tuned")
    critic = load_policy(artifacts["tuned"])
    with serving(tiny_model(HFGenerator(critic), critic), unsteady) as served:
        inputs = artifacts | {"prompts": prompts, "served": served.endpoint()}
        assert transcripts(context(inputs), policy="$base", critic="$served") == local
        asked = len(served.bodies)
        assert asked == len(served.answered) + len(FAILURES)
        assert transcripts(context(inputs), policy="$base", critic="$served") == local
        assert len(served.bodies) == asked, "what was answered once is not asked again"
    assert len(local) == 12 and any(row["revisions"][0]["reply"] for row in local)


def referee(body):
    """Says A with the probability 0.45 + 0.4 if the first reply is good, or - 0.4 if the second is."""
    first, second = body["messages"][-1]["content"].split("(A) ")[1].split("(B) ")
    p = 0.45 + 0.4 * (("good" in first) - ("good" in second.split("\n")[0]))
    top = [{"token": letter, "logprob": log(q)} for letter, q in (("A", p), ("B", 1 - p))]
    return saying("A") | {"logprobs": {"content": [top[0] | {"top_logprobs": top}]}}


def test_a_served_judge_labels_pairs_and_what_it_refuses_is_counted(rows, context):
    samples = [
        Sample(f"q{i}", (Message("user", f"q{i}"),), text, "base", index=n).row()
        for i in range(4)
        for n, text in enumerate(("so so", "good"))
    ]
    moods = FAILURES | {11: "refusing"}
    with serving(referee, lambda number: moods.get(number, "fine")) as served:
        ctx = context({"judge": served.endpoint(), "samples": rows("samples", *samples)})
        stage = AIFeedback(judge="$judge", prompts="$samples", constitution="toy", principles=3)
        metrics = stage.run(ctx)
        asked = len(served.bodies)
        assert stage.run(ctx) == metrics and len(served.bodies) == asked
    assert asked == 4 * 3 * 2 + len(FAILURES), "both orders, three principles; what failed was asked again"
    assert metrics["unreadable"] == pytest.approx(1 / 24)
    pairs = list(read_file(ctx.out / "records.jsonl"))
    assert [pair.chosen[0].content for pair in pairs] == ["good"] * 4
    # The good reply has 0.85 as the first and 0.95 as the second; the refused question's principle counts in no label.
    assert [pair.label for pair in pairs] == pytest.approx([0.9] * 4)
    assert metrics["position_bias"] == pytest.approx(-0.05)
