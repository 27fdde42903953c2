"""Stage `ai_feedback`: a judge's answers become preferences with soft labels, or are refused."""

import json

import numpy as np
import pytest

from align.data import read_file
from align.errors import CheckError
from align.generate import load as loading
from align.records import Message, Sample
from align.stages.ai_feedback import AIFeedback

GIVEN = {"judge": "$judge", "prompts": "$samples", "constitution": "toy", "principles": 3}


class Referee:
    """Prefers a reply with "good" by `sure`, says A with `bias` more; NaN to what has "odd" in it."""

    def __init__(self, sure=0.4, bias=0.0):
        self.sure, self.bias, self.asked = sure, bias, 0

    def choose(self, questions, options, progress=None):
        self.asked += len(questions)
        return np.log(np.array([self._answer(question[0].content) for question in questions]))

    def _answer(self, question):
        first, second = question.split("(A) ")[1].split("(B) ")
        lead = self.sure * (("good" in first) - ("good" in second.split("\n")[0]))
        p = min(max(0.5 + lead + self.bias, 0.01), 0.99)
        return [np.nan] * 2 if "odd" in question else [p, 1 - p]


def sample(prompt, reply, index, finish="stop"):
    return Sample(
        prompt, (Message("user", prompt),), reply, "base", index=index, finish=finish, extra={"topic": 1}
    ).row()


def replies(count=8):
    return [sample(f"q{i}", text, n) for i in range(count) for n, text in enumerate(("so so", f"good {i}"))]


def run(context, rows, monkeypatch, referee, samples, **more):
    monkeypatch.setattr(loading, "load_generator", lambda ctx, reference: referee)
    ctx = context({"samples": rows("samples", *samples)})
    metrics = AIFeedback.model_validate(GIVEN | more).run(ctx)
    return metrics, list(read_file(ctx.out / "records.jsonl"))


def test_labels_are_soft_and_the_better_reply_is_first(context, rows, monkeypatch):
    referee = Referee(bias=0.05)
    metrics, pairs = run(context, rows, monkeypatch, referee, replies())
    assert {pair.chosen[0].content for pair in pairs} == {f"good {i}" for i in range(8)}
    assert all(pair.label == pytest.approx(0.9, abs=1e-6) for pair in pairs), "0.95 in one order and 0.85 in the other"
    assert all(pair.rejected == (Message("assistant", "so so"),) and pair.extra["topic"] == 1 for pair in pairs)
    assert set(pairs[0].extra["feedback"]) == {"harm", "manners", "help"}
    assert pairs[0].extra["feedback"]["harm"] == pytest.approx([0.85, 0.95]), "probabilities of the chosen reply"
    assert metrics["position_bias"] == pytest.approx(0.05) and metrics["order_agreement"] == 1
    assert metrics["principle_agreement"] == 1 and metrics["pairs"] == 8 and metrics["label"] == pytest.approx(0.9)
    assert referee.asked == 8 * 3 * 2


def test_what_cannot_be_compared_is_left_out_and_counted(context, rows, monkeypatch):
    samples = [
        *replies(),
        sample("same", "x", 0), sample("same", "x", 1), sample("cut", "x", 0), sample("cut", "good", 1, "length"),
        sample("none", "", 0), sample("none", "good", 1), sample("odd", "x", 0), sample("odd", "good", 1),
        sample("kept back", "", 0, "refused"), sample("kept back", "good", 1), sample("single", "x", 0),
        sample("tie", "x", 0), sample("tie", "y", 1),
    ]  # fmt: skip
    metrics, pairs = run(context, rows, monkeypatch, Referee(), samples)
    assert metrics["pairs"] == len(pairs) == 8
    left_out = {name: value for name, value in metrics.items() if name.startswith("pairs ") or name == "ties"}
    assert left_out == {
        "pairs of equal replies": 1, "pairs with an unfinished reply": 1, "pairs with an empty reply": 1,
        "pairs without a readable answer": 1, "pairs with a reply that the server kept back": 1, "ties": 1,
    }  # fmt: skip
    assert metrics["unreadable"] == pytest.approx(1 / 10)


def test_ties_and_unfinished_replies_can_be_kept(context, rows, monkeypatch):
    samples = [*replies(), sample("tie", "x", 0), sample("tie", "y", 1, "length")]
    _, pairs = run(context, rows, monkeypatch, Referee(), samples, ties="keep", unfinished="keep")
    (tie,) = [pair for pair in pairs if pair.id == "tie"]
    assert tie.label == pytest.approx(0.5) and tie.unfinished == ("rejected",)


def test_a_judge_that_likes_a_letter_is_refused_unless_told_to(context, rows, monkeypatch):
    """Issue 4's own demand: labels near a half with a large position bias are not passed on."""
    why = r"consistency over 8 pairs is -1\.00 \[-1\.00, -1\.00\].* says A with probability 0\.90.*`unreliable: keep`"
    with pytest.raises(CheckError, match=why):
        run(context, rows, monkeypatch, Referee(sure=0.01, bias=0.4), replies())
    metrics, _ = run(context, rows, monkeypatch, Referee(sure=0.01, bias=0.4), replies(), unreliable="keep")
    assert metrics["order_agreement"] == 0 and metrics["label"] == pytest.approx(0.51)
    assert [e for e in context.events if e.get("level") == "warning"]


def test_nothing_readable_is_always_refused(context, rows, monkeypatch):
    samples = [sample("odd", "x", 0), sample("odd", "good", 1)]
    with pytest.raises(CheckError, match="none of the judge's answers about 1 pairs could be read"):
        run(context, rows, monkeypatch, Referee(), samples, unreliable="keep")


def test_what_a_killed_run_has_judged_is_not_asked_again(context, rows, monkeypatch):
    referee = Referee()
    monkeypatch.setattr(loading, "load_generator", lambda ctx, reference: referee)
    ctx = context({"samples": rows("samples", *replies(8))}, sample_batch=4)
    calls = iter(range(9))
    monkeypatch.setattr(referee, "choose", lambda *a: Referee.choose(referee, *a) if next(calls) < 3 else 1 / 0)
    stage = AIFeedback.model_validate(GIVEN)
    with pytest.raises(ZeroDivisionError):
        stage.run(ctx)
    assert referee.asked == 3 * 2 * 6, "three chunks of two prompts"
    monkeypatch.undo()
    again = Referee()
    monkeypatch.setattr(loading, "load_generator", lambda ctx, reference: again)
    assert stage.run(ctx)["pairs"] == 8
    assert again.asked == 2 * 6, "and the last one"


def test_a_policy_writes_and_judges_itself(artifacts, prompts, context):
    """A random model is no judge, so it must be told to go on; all that is in its rows is probabilities."""
    ctx = context(artifacts | {"prompts": prompts}, sample_batch=8)
    fields = {"policy": "$base", "prompts": "$prompts", "constitution": "toy", "principles": 2, "ties": "keep"}
    more = {"sampling": {"n": 2, "max_new_tokens": 6}, "unfinished": "keep", "unreliable": "keep", "max_too_long": 0.5}
    stage = AIFeedback.model_validate(fields | more)
    figures = stage.check(ctx)
    assert figures["questions"] == figures["pairs"] * 4
    with pytest.raises(CheckError, match="are not all different as tokens"):
        stage.run(ctx)


def test_a_stage_is_read_back_from_what_it_says_itself():
    """As the worker gets it: every field in full."""
    stage = AIFeedback.model_validate(GIVEN)
    assert AIFeedback.model_validate(stage.model_dump(mode="json", by_alias=True)) == stage


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"judge": None}, "policy: say who writes"),
        ({"policy": "$base", "sampling": {"n": 3}}, "replies are judged in pairs; n is 3"),
        ({"sampling": {"n": 4}}, "without policy, nothing is sampled"),
        ({"clamp": [0.3, 0.7]}, "has no effect without reasoning"),
        ({"reasoning": {"max_new_tokens": 9}, "clamp": [0.6, 0.7]}, "a probability of one half must be within it"),
    ],
)
def test_what_cannot_be_is_refused_while_the_recipe_is_read(more, what):
    with pytest.raises(ValueError) as error:
        AIFeedback.model_validate(GIVEN | more)
    assert what in str(error.value)


def test_rows_in_the_work_folder_are_plain_json(context, rows, monkeypatch):
    monkeypatch.setattr(loading, "load_generator", lambda ctx, reference: Referee())
    ctx = context({"samples": rows("samples", *replies(8))})
    AIFeedback.model_validate(GIVEN).run(ctx)
    found = [json.loads(line) for line in (ctx.work / "judging.jsonl").read_text().splitlines()]
    assert len(found) == 8 and all(of["judged"][0]["replies"][0] == ["so so", "stop"] for of in found)
