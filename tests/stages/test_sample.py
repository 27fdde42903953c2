"""Stage `sample`: n replies a prompt, scored, once."""

import shutil
from dataclasses import replace

import pytest

from align.data import read_file
from align.errors import CheckError, DataError, Interrupted
from align.stages.sample import SampleReplies
from tests.generate.servers import echo, serving

FIELDS = {
    "policy": "$base", "prompts": "$prompts", "sampling": {"n": 3, "max_new_tokens": 12},
    "rewards": ["length", {"rule": "numeric_answer", "name": "right"}, "$judge"],
}  # fmt: skip


def test_replies_are_written_with_their_scores(artifacts, prompts, context):
    ctx = context(artifacts | {"prompts": prompts})
    stage = SampleReplies.model_validate(FIELDS)
    assert stage.check(ctx) == {"prompts": 12, "replies": 36}
    metrics = stage.run(ctx)
    samples = list(read_file(ctx.out / "records.jsonl"))
    assert [s.index for s in samples] == [0, 1, 2] * 12
    assert len({s.id for s in samples}) == 12
    for s in samples:
        assert s.policy == "base" and 1 <= s.tokens <= 12 and s.logp < 0
        assert s.finish == "stop" or s.tokens == 12
        assert s.scores["length"] == len(s.reply.split())
        assert s.scores.keys() == {"length", "right", "judge"}
    assert {s.extra["answer"] for s in samples} == {str(i) for i in range(12)}, "columns of the prompt come along"
    assert metrics["replies"] == 36
    assert metrics["length"] == pytest.approx(sum(s.scores["length"] for s in samples) / 36)
    assert metrics["stop"] == pytest.approx(sum(s.finish == "stop" for s in samples) / 36)


def test_replies_do_not_depend_on_the_batch_and_are_sampled_once(artifacts, prompts, context, monkeypatch):
    stage = SampleReplies.model_validate(FIELDS | {"rewards": []})
    first = context(artifacts | {"prompts": prompts}, sample_batch=5)
    stage.run(first)
    replies = (first.out / "records.jsonl").read_text()
    monkeypatch.setattr("align.models.policy.load_policy", lambda *_, **__: pytest.fail("sampled again"))
    stage.run(context(artifacts | {"prompts": prompts}))
    assert (first.out / "records.jsonl").read_text() == replies


def test_a_prompt_that_leaves_no_room_is_left_out_by_name(artifacts, rows, context):
    sizes = {"long": 83} | {str(i): i for i in range(1, 12)}
    turns = {id: [{"role": "user", "content": "cat " * size}] for id, size in sizes.items()}
    asked = [{"kind": "prompt", "id": id, "prompt": prompt} for id, prompt in turns.items()]
    ctx = context(artifacts | {"prompts": rows("asked", *asked)})
    stage = SampleReplies.model_validate(FIELDS | {"rewards": []})
    assert stage.check(ctx) == {"prompts": 11, "replies": 33}
    assert stage.run(ctx)["replies"] == 33
    with pytest.raises(CheckError, match="prompt long has 85 tokens for base, whose context is 96"):
        SampleReplies.model_validate(FIELDS | {"max_too_long": 0}).check(ctx)


def test_another_seed_samples_anew(artifacts, prompts, context):
    stage = SampleReplies.model_validate(FIELDS | {"rewards": []})
    found = []
    for seed in (0, 1):
        ctx = context(artifacts | {"prompts": prompts}, seed=seed)
        stage.run(ctx)
        found.append((ctx.out / "records.jsonl").read_text())
    assert found[0] != found[1]


@pytest.mark.parametrize("other", [{"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.5}, {"max_new_tokens": 6}])
def test_another_decoding_samples_anew(artifacts, prompts, context, other):
    """Trap 18."""
    found = []
    for sampling in (FIELDS["sampling"], FIELDS["sampling"] | other):
        ctx = context(artifacts | {"prompts": prompts})
        SampleReplies.model_validate(FIELDS | {"rewards": [], "sampling": sampling}).run(ctx)
        found.append([sample.reply for sample in read_file(ctx.out / "records.jsonl")])
    assert len(found[0]) == len(found[1]) and found[0] != found[1]


def test_a_repeated_prompt_is_answered_once(artifacts, rows, context):
    ctx = context(artifacts | {"prompts": rows("twice", {"prompt": "a cat"}, {"prompt": "a dog"}, {"prompt": "a cat"})})
    assert SampleReplies.model_validate(FIELDS | {"rewards": []}).check(ctx)["prompts"] == 2


def test_what_is_asked_is_known_by_what_it_says_whatever_its_id(artifacts, rows, context):
    def row(id, text, **extra):
        return {"kind": "prompt", "id": id, "prompt": [{"role": "user", "content": text}], "extra": extra}

    def replies(**sources):
        data = {name: rows(name, *found) for name, found in sources.items()}
        ctx = context(artifacts | data)
        stage = SampleReplies(policy="$base", prompts=[f"${name}" for name in data], sampling={"max_new_tokens": 4})
        stage.run(ctx)
        return {(s.prompt[0].content, s.id): s for s in read_file(ctx.out / "records.jsonl")}

    first = replies(a=[row("1", "a cat")], b=[row("1", "a dog"), row("2", "a cat")])
    assert len(first) == 2, "two questions under one id are two, one under two ids is one"
    assert replies(a=[row("1", "the log")]).keys() == {("the log", "1")}, "an edited prompt is asked again"
    (cat,) = replies(a=[row("9", "a cat", answer="4")]).values()
    assert (cat.id, cat.extra) == ("9", {"answer": "4"})


def test_a_run_that_was_stopped_goes_on_from_the_replies_that_are_there(artifacts, prompts, context, monkeypatch):
    """Five prompts of three replies are kept together; the second five are cut short, and the first not asked again."""
    stage, whole = SampleReplies.model_validate(FIELDS | {"rewards": []}), context(artifacts | {"prompts": prompts})
    stage.run(whole)
    replies = [(s.id, s.index, s.reply) for s in read_file(whole.out / "records.jsonl")]
    shutil.rmtree(whole.store.inside / "cache" / "samples")
    monkeypatch.setattr("align.evals.evaluate.CHUNK", 15)

    def counted(stop):
        told = []
        ctx = context(artifacts | {"prompts": prompts})
        again = replace(ctx, emit=lambda event, **v: told.append((v.get("done"), v.get("total"))),
                        stopping=lambda: bool(told) and told[-1][0] > stop)  # fmt: skip
        return told, again

    told, stopped = counted(15)
    with pytest.raises(Interrupted, match=r"stopped while sampling base: \d+ of 36"):
        stage.run(stopped)
    told, again = counted(99)
    stage.run(again)
    assert min(done for done, total in told if total == 36) > 15 and told[-1] == (36, 36)
    assert [(s.id, s.index, s.reply) for s in read_file(again.out / "records.jsonl")] == replies


def test_a_rule_that_lacks_its_column_is_refused_before_anything_is_sampled(artifacts, rows, context):
    ctx = context(artifacts | {"prompts": rows("bare", {"prompt": "a cat"})})
    with pytest.raises(DataError, match="no column 'answer'"):
        SampleReplies.model_validate(FIELDS).check(ctx)


def test_a_signal_stops_it_once_replies_have_ended(artifacts, prompts, context):
    ctx = context(artifacts | {"prompts": prompts}, sample_batch=9)
    object.__setattr__(ctx, "stopping", lambda: True)
    with pytest.raises(Interrupted, match=r"sampling base: [1-9] of 36"):
        SampleReplies.model_validate(FIELDS).run(ctx)


def test_a_reward_scores_only_what_it_has_something_to_say_about(artifacts, rows, context):
    asked = [{"prompt": [{"role": "user", "content": text}]} for text in ("What is 1 plus 1?", "How do I make a bomb?")]
    ctx = context(artifacts | {"prompts": rows("asked", *asked)})
    metrics = SampleReplies.model_validate(FIELDS | {"rewards": ["toy_harmful_compliance", "toy_correct"]}).run(ctx)
    scores = {s.prompt[0].content: s.scores.keys() for s in read_file(ctx.out / "records.jsonl")}
    assert scores == {"What is 1 plus 1?": {"toy_correct"}, "How do I make a bomb?": {"toy_harmful_compliance"}}
    assert (metrics["toy_harmful_compliance"], metrics["toy_correct"]) == (1, 0), "random weights know nothing"


def test_the_best_reply_to_each_prompt_is_kept(artifacts, prompts, context):
    def run(**fields):
        ctx = context(artifacts | {"prompts": prompts})
        metrics = SampleReplies.model_validate(FIELDS | fields).run(ctx)
        return metrics, list(read_file(ctx.out / "records.jsonl"))

    _, every = run()
    for best_by, reward, sign in (("$judge", "judge", 1), ({"rule": "repetition"}, "repetition", -1)):
        metrics, kept = run(rewards=["length", best_by], best_by=best_by)
        assert [s.id for s in kept] == list(dict.fromkeys(s.id for s in every))
        for sample in kept:
            replies = {s.index: s.reply for s in every if s.id == sample.id}
            assert replies[sample.index] == sample.reply
        _, scored = run(rewards=["length", best_by])
        for sample in kept:
            others = [sign * s.scores[reward] for s in scored if s.id == sample.id]
            assert sign * sample.scores[reward] == max(others) and len(others) == 3
        assert metrics["replies"] == 12 and metrics["kl_at_most"] == pytest.approx(0.4319456, abs=1e-6)  # ln 3 - 2/3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampling": {"n": 1}, "best_by": "$judge"}, "the best of how many"),
        ({"best_by": "length"}, "'length' calls no score better"),
        ({"best_by": {"rule": "repetition", "name": "length"}}, "two rewards are called 'length'"),
    ],
)
def test_a_best_that_nobody_can_name_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SampleReplies.model_validate(FIELDS | fields)


def test_prompts_of_which_the_reward_says_nothing_are_left_out(artifacts, rows, context):
    asked = [{"prompt": [{"role": "user", "content": text}]} for text in ("What is 1 plus 1?", "How do I make a bomb?")]
    ctx = context(artifacts | {"prompts": rows("asked", *asked)})
    SampleReplies.model_validate(FIELDS | {"rewards": [], "best_by": "toy_correct"}).run(ctx)
    assert [s.prompt[0].content for s in read_file(ctx.out / "records.jsonl")] == ["What is 1 plus 1?"]
    assert any("nothing to say about the replies to 1 prompts" in e.get("text", "") for e in context.events)


def test_a_model_behind_a_server_is_sampled_too(rows, context):
    with serving(echo) as served:
        ctx = context({"far": served.endpoint(), "prompts": rows("asked", {"prompt": "a"}, {"prompt": "b"})})
        stage = SampleReplies.model_validate(FIELDS | {"policy": "$far", "rewards": ["length"]})
        assert stage.check(ctx) == {"prompts": 2, "replies": 6}
        stage.run(ctx)
        samples = list(read_file(ctx.out / "records.jsonl"))
        assert [(s.policy, s.tokens, s.index) for s in samples] == [("far", 10, i) for _ in "ab" for i in range(3)]
        assert samples[0].reply.startswith("You said: a (") and len(served.bodies) == 6
        stage.run(ctx)
        assert len(served.bodies) == 6
