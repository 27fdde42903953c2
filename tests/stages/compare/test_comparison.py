"""Stage `compare`: the same prompts, template and decoding for all; values that follow from the replies it kept."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from align.config import Endpoint, Sampling
from align.data import read, read_file, write
from align.errors import CheckError
from align.evals.evaluate import Subject, questions
from align.generate.hf import HFGenerator
from align.models.contract import logps
from align.models.policy import load_policy
from align.records import Prompt, Sample
from align.stage import PolicyRef, RecordsRef, seed_of
from align.stages.compare import Compare
from align.store import Artifact
from tests.generate.servers import saying, serving, tiny_model
from tests.stages.compare.conftest import FIELDS, run

ANSWERS_SEED = seed_of(0, "answers")


def test_a_comparison_of_two_policies(artifacts, prompts, texts, context):
    ctx = context(artifacts | {"prompts": prompts, "texts": texts})
    found, metrics = run(ctx, rewards=["length", "repetition", "$judge"], text="$texts")
    shared = {"length", "repetition", "judge", "nll", "perplexity"}
    shared |= {"tokens", "words", "stop", "distinct-1", "distinct-2"}
    assert found["policies"]["base"].keys() == shared
    assert found["policies"]["tuned"].keys() == shared | {"kl"}
    assert metrics["tuned/kl"] == found["policies"]["tuned"]["kl"]["value"]
    directions = {name: found["better"][name] for name in ("length", "judge", "repetition", "nll")}
    assert directions == {"length": None, "judge": "higher", "repetition": "lower", "nll": "lower"}
    assert found["settings"]["prompts"] == 12 and found["settings"]["base"] == "base"
    replies = list(read_file(ctx.out / "replies" / "tuned.jsonl"))
    assert found["policies"]["tuned"]["tokens"]["value"] == pytest.approx(np.mean([s.tokens for s in replies]))
    assert found["policies"]["tuned"]["judge"]["value"] == pytest.approx(np.mean([s.scores["judge"] for s in replies]))
    assert (ctx.out / "comparison.md").read_text().startswith("# Comparison")
    notes = [e["text"] for e in context.events if e["event"] == "note"]
    assert not notes and len(found["verdicts"]) == 3  # repetition, judge, nll: said in the report, not while it runs


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kl_is_the_mean_log_ratio_of_the_policys_own_tokens(artifacts, prompts, context, temperature):
    ctx = context(artifacts | {"prompts": prompts})
    sampling = {"max_new_tokens": 12, "temperature": temperature}
    found, _ = run(ctx, sampling=sampling)
    tuned, base = (load_policy(artifacts[name]) for name in ("tuned", "base"))
    subject = Subject(ctx, PolicyRef("tuned"))
    answers = subject.answers(questions(ctx, RecordsRef("prompts")), Sampling.model_validate(sampling), ANSWERS_SEED)
    assert [s.reply for s in answers.samples] == [s.reply for s in read_file(ctx.out / "replies" / "tuned.jsonl")]
    total = 0.0
    for sample, ids in zip(answers.samples, answers.ids, strict=True):
        row = tuned.chat.prompt(sample.prompt) + ids.tolist()
        for sign, policy in ((1, tuned), (-1, base)):
            with torch.no_grad():
                logits = policy.model(torch.tensor([row])).logits[0, -len(ids) - 1 : -1] / temperature
            total += sign * logits.log_softmax(-1).gather(-1, torch.from_numpy(ids).long()[:, None]).sum().item()
    expected = total / sum(map(len, answers.ids))
    assert found["policies"]["tuned"]["kl"]["value"] == pytest.approx(expected, abs=1e-4)
    assert expected > 0.05


def test_the_kl_of_the_same_weights_is_nothing(artifacts, prompts, context):
    twin = replace(artifacts["base"], key="key-of-twin")
    found, _ = run(context({"base": artifacts["base"], "tuned": twin, "prompts": prompts}))
    kl = found["policies"]["tuned"]["kl"]
    assert max(abs(kl["value"]), abs(kl["low"]), abs(kl["high"])) < 1e-5
    assert {p["tie"] for p in found["pairs"]} == {12}, "the same random streams, so the same replies"


def test_kl_is_left_out_where_decoding_is_not_the_policys_distribution(artifacts, prompts, context):
    for sampling in ({"temperature": 0}, {"top_k": 5}, {"top_p": 0.9}):
        found, _ = run(context(artifacts | {"prompts": prompts}), sampling={"max_new_tokens": 4} | sampling)
        assert "kl" not in found["policies"]["tuned"]
        assert any(e.get("text", "").startswith("kl is not measured") for e in context.events)


def test_nll_is_the_models_own(artifacts, prompts, texts, context):
    ctx = context(artifacts | {"prompts": prompts, "texts": texts})
    found, _ = run(ctx, text="$texts", text_tokens=8)
    policy = load_policy(artifacts["base"])
    values = []
    for row in (ctx.base / "texts.jsonl").read_text().splitlines():
        values += logps(policy.model, policy.chat.document(json.loads(row)["text"])[:8])
    assert len(values) == 3 * 7
    assert found["policies"]["base"]["nll"]["value"] == pytest.approx(-np.mean(values), abs=1e-4)
    assert found["policies"]["base"]["perplexity"]["value"] == pytest.approx(np.exp(-np.mean(values)), rel=1e-3)


def test_one_more_policy_samples_that_one_only(artifacts, prompts, context):
    run(context(artifacts | {"prompts": prompts}), policies=["$base"])
    run(context(artifacts | {"prompts": prompts}))
    done = {e["what"] for e in context.events if e["event"] == "progress"}
    assert done == {"sampling tuned", "log-probs of tuned under base"}


def test_a_policy_that_no_key_names_is_sampled_every_time(artifacts, prompts, context):
    for _ in range(2):
        ctx = context(artifacts | {"prompts": prompts})
        run(replace(ctx, keys={"base": "key-of-base"}), policies=["$base", "$tuned"])
    done = {e["what"] for e in context.events if e["event"] == "progress"}
    assert done == {"sampling tuned", "log-probs of tuned under base"}


def test_replies_are_held_against_each_other_and_the_best_of_them_is_estimated(artifacts, prompts, context):
    ctx = context(artifacts | {"prompts": prompts})
    found, metrics = run(ctx, rewards=["repetition", "length"], best_of=[1, 2], worth={"repetition": 0.125})
    (rate,) = found["win_rates"]
    assert (rate["metric"], rate["policy"], rate["baseline"], rate["n"]) == ("repetition", "tuned", "base", 12)
    assert metrics["tuned/repetition/win_rate"] == rate["rate"] and "tuned/length/win_rate" not in metrics
    fields = FIELDS | {"rewards": ["repetition", "length"], "judges": [{"model": "$base", "name": "kind"}]}
    assert {"repetition/win_rate", "kind/win_rate"} <= Compare.model_validate(fields).measures()
    assert "length/win_rate" not in Compare.model_validate(fields).measures(), "neither length is better"
    assert found["ratings"] == {}
    replies = list(read_file(ctx.out / "replies" / "base.jsonl"))
    scores = [sample.scores["repetition"] for sample in replies]
    lowest = [min(pair) for pair in zip(scores[::2], scores[1::2], strict=True)]
    curve = {(row["n"], row["metric"]): row["value"] for row in found["best_of"]["base"]}
    assert curve[2, "repetition"] == pytest.approx(np.mean(lowest)), "lower is better there"
    assert curve[1, "length"] == pytest.approx(found["policies"]["base"]["length"]["value"])
    needed = {pair["metric"]: pair["needed"] for pair in found["pairs"]}
    assert needed["repetition"] is None or needed["repetition"]["difference"] == 0.125
    text = (ctx.out / "comparison.md").read_text()
    assert "Win rates of replies" in text and "Best of n" in text and "Bradley-Terry" not in text


def test_more_is_measured_on_request(artifacts, prompts, context):
    right = {"rule": "pattern", "name": "right", "options": {"regex": ".*cat.*"}}
    passing = {"metric": "pass_at", "name": "pass@2", "options": {"reward": "right", "k": 2}}
    ctx = context(artifacts | {"prompts": prompts})
    found, metrics = run(ctx, rewards=[right], metrics=["truncated", "self_repetition", passing], best_of=[2])
    assert metrics["base/truncated"] == pytest.approx(1 - metrics["base/stop"])
    assert metrics["base/pass@2"] == pytest.approx(found["best_of"]["base"][0]["value"])
    assert metrics["base/pass@2"] >= metrics["base/right"]
    assert (found["better"]["pass@2"], found["better"]["truncated"]) == ("higher", "lower")


def test_brittleness_is_the_difference_to_the_replies_to_other_words(artifacts, prompts, context):
    ctx = context(artifacts | {"prompts": prompts})
    found, _ = run(ctx, rewards=["length", "numeric_answer"], brittleness=["irrelevant", "reordered"])
    moved = found["brittleness"]["tuned"]
    assert moved["reordered"] == {}, "there are no examples to put in order"
    assert moved["irrelevant"]["length"]["n"] == 12 and moved["irrelevant"]["numeric_answer"]["n"] == 12
    assert moved["irrelevant"]["length"].keys() == {"difference", "low", "high", "n"}
    assert "irrelevant" in (ctx.out / "comparison.md").read_text()
    assert found["policies"]["tuned"]["length"]["n"] == 12


def test_a_judge_behind_a_server_says_which_reply_is_better(artifacts, prompts, rows, context):
    """It likes whatever has a cat, wherever it stands; where both have one, or none, it says A."""

    def reply(body):
        first, second = re.search(r"\(A\) (.*)\n\n\(B\) (.*)\n\n", body["messages"][-1]["content"]).groups()
        return saying("B" if "cat" in second and "cat" not in first else "A")

    asked = [json.loads(line)["prompt"] for line in (context({}).base / "prompts.jsonl").read_text().splitlines()]
    inputs = {name: rows(name, *({"prompt": p, "reply": f"a {name}"} for p in asked)) for name in ("dog", "cat", "log")}
    with serving(reply) as server:
        judge = Endpoint(endpoint=server.address, name="judge")
        ctx = context(inputs | {"prompts": prompts, "judge": judge})
        fields = {"policies": ["$dog", "$cat", "$log"], "judges": [{"model": "$judge", "name": "feline"}]}
        assert Compare.model_validate(FIELDS | fields).check(ctx)["judged"] == 12 * 2 * 3
        found, _ = run(ctx, **fields)
    rates = {(rate["policy"], rate["baseline"]): rate["rate"] for rate in found["win_rates"]}
    assert rates == {("cat", "dog"): 1.0, ("log", "dog"): 0.5, ("log", "cat"): 0.0}
    assert found["judges"]["feline"]["agreement_of_orders"]["value"] == pytest.approx(2 / 3)
    assert found["ratings"]["feline"]["cat"]["value"] > 0
    assert "feline: cat beats dog: it wins 1 [" in found["verdicts"][0]
    assert "| feline | 36 " in (ctx.out / "comparison.md").read_text()


def test_ready_answers_are_compared_with_those_of_a_model(artifacts, prompts, texts, rows, context):
    asked = [json.loads(line)["prompt"] for line in (context({}).base / "prompts.jsonl").read_text().splitlines()]
    answered = ({"prompt": prompt, "reply": "the cat sat"} for prompt in (*reversed(asked), "never asked"))
    human = rows("human", *answered)
    ctx = context(artifacts | {"prompts": prompts, "texts": texts, "human": human})
    found, metrics = run(ctx, policies=["$base", "$human"], rewards=["length"], text="$texts")
    assert metrics["human/length"] == 3 and found["policies"]["human"]["words"]["n"] == 12
    assert found["policies"]["human"].keys() == {"length", "words", "distinct-1", "distinct-2"}
    assert {pair["metric"] for pair in found["pairs"]} == found["policies"]["human"].keys()
    notes = " ".join(found["notes"])
    assert "human: ready answers, decoded nobody here knows how" in notes
    assert "human: 12 replies instead of 24" in notes
    assert "kl of human is not measured" in notes and "nll of human is not measured" in notes
    assert {s.policy for s in read_file(ctx.out / "replies" / "human.jsonl")} == {"human"}
    found, _ = run(context(ctx.inputs), policies=["$human", "$base"])
    assert "kl is not measured: of human only replies are known" in found["notes"]


def test_ready_answers_of_another_decoding_are_marked(artifacts, prompts, context, tmp_path):
    asked = read(context({"prompts": prompts}), RecordsRef("prompts"), Prompt)
    inputs = artifacts | {"prompts": prompts}
    for name, temperature in (("alike", 0.5), ("cooler", 0.25)):
        folder = tmp_path / name
        write([Sample(p.id, p.prompt, "the cat", name, tokens=2) for p in asked], folder / "records.jsonl")
        drawn = Sampling(temperature=temperature, max_new_tokens=4).model_dump()
        (folder / "manifest.json").write_text(json.dumps({"fields": {"sampling": drawn}}))
        inputs[name] = Artifact("records", f"key-of-{name}", folder)
    sampling = {"temperature": 0.5, "max_new_tokens": 4}
    found, _ = run(context(inputs), policies=["$base", "$alike", "$cooler"], sampling=sampling)
    marked = [note for note in found["notes"] if "decoded" in note]
    assert marked == ["cooler: ready answers, decoded with temperature 0.25, not 0.5"]


def test_a_server_takes_part(artifacts, prompts, texts, context):
    """It answers with the weights of `base`, declines one prompt, and tells no tokens for another."""
    policy = load_policy(artifacts["base"])
    answer = tiny_model(HFGenerator(policy, 1), policy)

    def reply(body):
        if body["messages"][-1]["content"] == "the a cat":
            return {"message": {"role": "assistant", "content": ""}, "finish_reason": "content_filter"}
        return answer(body)

    with serving(reply) as server:
        inputs = artifacts | {"prompts": prompts, "texts": texts, "served": server.endpoint()}
        policies = ["$base", "$served"]
        found, metrics = run(context(inputs), policies=policies, rewards=["length", "repetition"], text="$texts")
        assert len(server.answered) == 24
        again, _ = run(context(inputs), policies=policies, rewards=["length", "repetition"], text="$texts")
        assert len(server.answered) == 24 and again == found, "answers are kept"
    kept = list(read_file(context(inputs).out / "replies" / "served.jsonl"))
    assert [s.finish for s in kept].count("refused") == 2 and {s.policy for s in kept} == {"served"}
    assert metrics["served/length"] == pytest.approx(np.mean([len(s.reply.split()) for s in kept]))
    assert found["policies"]["served"].keys() == {
        "length",
        "repetition",
        "tokens",
        "words",
        "stop",
        "distinct-1",
        "distinct-2",
    }
    assert {note.removeprefix("served: ") for note in found["notes"]} == {
        "asked through its server, which writes prompts in a template of its own",
        "2 of 24 replies were refused by its server, and count as empty ones",
        "nll of served is not measured: only its replies are known",
        "kl of served is not measured: only its replies are known",
        "tokens is compared only between policies with the same tokenizer: base | served",
    }


def test_turns_of_one_conversation_count_for_what_they_tell_together(artifacts, rows, context):
    talks = [["hi", "yes", f"the {word}", "no", "why"] for word in ("cat", "dog", "log", "mat")]
    turns = [
        [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(talk[:n])]
        for talk in talks for n in (3, 5)
    ]  # fmt: skip
    prompts = rows("prompts", *({"prompt": turn, "speaker": i // 4} for i, turn in enumerate(turns)))
    ctx = context(artifacts | {"prompts": prompts})
    assert Compare.model_validate(FIELDS).check(ctx)["clusters"] == 4
    found, _ = run(ctx, rewards=["repetition"])
    assert found["settings"]["clusters"] == found["pairs"][0]["clusters"] == 4 and found["pairs"][0]["n"] == 8
    assert found["win_rates"][0]["clusters"] == 4
    found, _ = run(ctx, rewards=["repetition"], cluster="speaker")
    assert found["policies"]["base"]["stop"]["clusters"] == 2
    with pytest.raises(CheckError, match="Did you mean 'speaker'"):
        run(ctx, cluster="speakers")


def test_paraphrases_of_a_server_show_how_far_scores_move(artifacts, prompts, context):
    """It turns `the a cat` into `dog cat a the`; the first prompt, one word, is put into the same word and left out."""

    def reply(body):
        words = body["messages"][-1]["content"].rpartition("\n\n")[2].split()
        return saying(" ".join(words if len(words) < 2 else ["dog", *reversed(words)]))

    with serving(reply) as server:
        ctx = context(artifacts | {"prompts": prompts, "writer": Endpoint(endpoint=server.address, name="tiny")})
        wanted = {"brittleness": ["irrelevant", {"paraphrase": "$writer", "name": "other words"}]}
        found, _ = run(ctx, rewards=["length"], **wanted)
        with pytest.raises(ValueError, match="'typos' is there twice"):
            Compare.model_validate(FIELDS | {"brittleness": ["typos", "typos"]})
    assert len(server.bodies) == 12, "once for all policies"
    assert found["brittleness"]["tuned"]["other words"]["length"]["n"] == 11
    assert "other words: 1 of 12 rewordings are left out: 1 unchanged" in found["notes"]
    kept = list(read_file(ctx.out / "prompts" / "other words.jsonl"))
    assert (kept[0].prompt[-1].content, kept[0].extra) == ("dog a the", {"original": "the a"})
    before = {s.prompt: s for s in read_file(ctx.out / "replies" / "base.jsonl") if s.index == 0}
    assert len(before) == 12


def test_a_local_judge_that_reasons_says_nothing_where_there_is_no_room(artifacts, rows, context):
    """Ninety-six tokens in all: the question about long replies leaves none to think. The others are nonsense."""
    inputs = {
        "a": rows("a", {"prompt": "the cat", "reply": "sat"}, {"prompt": "the dog", "reply": " ".join(["ran"] * 40)}),
        "b": rows("b", {"prompt": "the cat", "reply": "ran"}, {"prompt": "the dog", "reply": "sat"}),
        "prompts": rows("prompts", {"prompt": "the cat"}, {"prompt": "the dog"}),
    }
    judge = {"model": "$base", "name": "deep", "reasoning": {"max_new_tokens": 8}, "verdict": "written", "text": "good"}
    found, _ = run(context(artifacts | inputs), policies=["$a", "$b"], judges=[judge])
    assert (found["judges"]["deep"]["pairs"], found["judges"]["deep"]["unread"]) == (2, 2)
    kept = [json.loads(line) for line in (context({}).out / "judgements" / "deep.jsonl").read_text().splitlines()]
    assert len(kept[0]["thoughts"]) == 2 and "thoughts" not in kept[1] and kept[1]["both"] == [None, None]
