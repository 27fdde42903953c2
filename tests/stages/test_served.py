"""Constitutional stages and models behind a server: the same over real HTTP, on a line that fails now and then."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from math import log
from pathlib import Path

import pytest
import torch

from align.constitution import asked_to_compare, find
from align.data import read_file
from align.errors import CheckError
from align.generate import server as server_module
from align.generate.hf import HFGenerator
from align.models.policy import from_scratch, load_policy
from align.records import Message, Sample
from align.stages.ai_feedback import AIFeedback
from align.stages.critique_revise import CritiqueRevise
from align.store import Artifact
from tests.generate.servers import saying, serving, tiny_model
from tests.stages.conftest import SIZES, WORDS, tokenizer

ROOT = Path(__file__).parents[2]
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


# A model as the judge. Its weights are random but for its last layer, which says A or B and hardly anything else.

TOPICS = ("cat", "dog", "mat", "log", "ran", "very")


@pytest.fixture(scope="module")
def referee_policy(tmp_path_factory):
    policy = from_scratch(SIZES, tokenizer(f"{WORDS} A B"), template="plain", seed=3)
    a, b = policy.tokenizer.convert_tokens_to_ids(["A", "B"])
    pairs = [(f"a good {topic}", f"the {topic} fell") for topic in TOPICS]
    asked = [asked_to_compare((Message("user", "the"),), *pair, of) for pair in pairs for of in find("toy").principles]
    with torch.no_grad():
        ids = [torch.tensor([policy.chat.prompt(turns)]) for turns in asked]
        hidden = torch.stack([policy.model.model(i).last_hidden_state[0, -1] for i in ids]).mean(0)
        policy.model.lm_head.weight *= 0.3
        policy.model.lm_head.weight[[a, b]] += 9 * hidden / hidden.norm() ** 2
    folder = tmp_path_factory.mktemp("referee")
    policy.save(folder, "referee")
    return Artifact("policy", "key-of-referee", folder)


def pairs_of_replies():
    return [
        Sample(f"the {topic}", (Message("user", f"the {topic}"),), reply, "base", index=n).row()
        for i, topic in enumerate(TOPICS)
        for n, reply in enumerate((f"a good {topic} and {TOPICS[i - 1]}", f"the {TOPICS[i - 3]} fell so sad"))
    ]


JUDGED = {
    "judge": "$judge", "prompts": "$samples", "constitution": "toy", "principles": 3,
    "ties": "keep", "unreliable": "keep",
}  # fmt: skip


def labels(ctx, **more):
    """What the stage tells of the judge and of each pair, as the judge was asked anew."""
    metrics = AIFeedback.model_validate(JUDGED | more).run(ctx)
    shutil.rmtree(ctx.work)
    return metrics, feedback(ctx.out)


def feedback(folder):
    """Of each pair the reply that was chosen, and its probabilities by principle, in both orders."""
    found = read_file(folder / "records.jsonl")
    return {(pair.id, pair.chosen[0].content): pair.extra["feedback"] for pair in found}


def about(found):
    return {
        pair: {principle: pytest.approx(both, abs=1e-5) for principle, both in told.items()}
        for pair, told in found.items()
    }


@pytest.mark.parametrize("reasoning", [None, {"max_new_tokens": 3, "temperature": 0}])
def test_a_served_model_judges_as_it_does_in_this_process(referee_policy, rows, context, reasoning):
    samples = rows("samples", *pairs_of_replies())
    metrics, local = labels(context({"judge": referee_policy, "samples": samples}), reasoning=reasoning)
    assert metrics["unreadable"] == 0 and len(local) == len(TOPICS)
    if reasoning is None:
        said = {round(p, 2) for told in local.values() for both in told.values() for p in both}
        assert len(said) > 8 and max(said) - min(said) > 0.1, "labels by which a mistake would show"
    policy = load_policy(referee_policy)
    with serving(tiny_model(HFGenerator(policy), policy), unsteady) as served:
        ctx = context({"judge": served.endpoint(), "samples": samples})
        assert labels(ctx, reasoning=reasoning) == (pytest.approx(metrics, abs=1e-5), about(local))
        asked = len(TOPICS) * 3 * 2 * (1 if reasoning is None else 2)
        assert len(served.answered) == asked and len(served.bodies) == asked + len(FAILURES)
        assert labels(ctx, reasoning=reasoning) == (pytest.approx(metrics, abs=1e-5), about(local))
        assert len(served.bodies) == asked + len(FAILURES), "what was answered once is not asked again"


RECIPE = """\
name: judged
models:
  judge: {{endpoint: "{address}", name: tiny, concurrency: 4}}
data:
  samples: {{path: samples.jsonl}}
stages:
  feedback: {fields}
"""


def judged(folder):
    """`align run` of the recipe, as a process and all that it starts."""
    return subprocess.Popen(
        [sys.executable, "-m", "align", "run", "recipe.yaml", "--json"], cwd=folder, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_loses_at_most_the_requests_under_way(referee_policy, rows, context, tmp_path):
    samples = rows("samples", *pairs_of_replies())
    _, expected = labels(context({"judge": referee_policy, "samples": samples}))
    policy = load_policy(referee_policy)
    answer = tiny_model(HFGenerator(policy), policy)

    def slowly(body):
        time.sleep(0.1)
        return answer(body)

    with serving(slowly, unsteady) as served:
        fields = json.dumps({"stage": "ai_feedback", **JUDGED})
        (tmp_path / "recipe.yaml").write_text(RECIPE.format(address=served.address, fields=fields))
        child = judged(tmp_path)
        while len(served.answered) < 12:
            assert child.poll() is None, child.stdout.read()
            time.sleep(0.01)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        time.sleep(1)  # the server finishes what it has begun
        before = len(served.answered)
        assert before < 30, "it was killed within its work"
        child = judged(tmp_path)
        said, _ = child.communicate()
        assert child.returncode == 0, said
        asked = {json.dumps(body, sort_keys=True) for body in served.answered}
        assert len(asked) == len(TOPICS) * 3 * 2 and len(served.answered) <= len(asked) + 4
    assert feedback(tmp_path / "runs/judged/feedback") == about(expected)
