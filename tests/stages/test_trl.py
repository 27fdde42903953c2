"""The bridge: TRL's trainers as stages, with the policy's own tokens, its own reference, resume, and refusals."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from align.config import Lora
from align.errors import CheckError, ContractError, DependencyError, Interrupted
from align.models.contract import Contract
from align.models.policy import from_scratch, load_policy
from align.registry import STAGES
from align.stages.trl import TRL, door, tokenizer
from align.store import Artifact
from align.train.watch import complete, newest
from tests.stages.conftest import SIZES
from tests.stages.conftest import tokenizer as words

ARGS = {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "max_length": 64, "max_steps": 4}
SAMPLING = {
    "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 6, "max_steps": 2, "beta": 0.1,
}  # fmt: skip
WORDS = ("cat", "dog", "mat", "log")


@pytest.fixture
def pairs(rows):
    return rows("pairs", *(
        {"prompt": f"the {word} sat on the {other}", "chosen": "happy good", "rejected": "sad bad and bad"}
        for word in WORDS for other in ("mat", "log")
    ))  # fmt: skip


@pytest.fixture
def stage():
    def make(trainer, args=ARGS, **fields):
        return TRL.model_validate({"policy": "$base", "data": "$pairs", "trainer": trainer, "args": args, **fields})

    return make


def steps(context):
    return [event for event in context.events if event["event"] == "step"]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@pytest.mark.parametrize("trainer", ["DPOTrainer", "KTOTrainer", "SFTTrainer"])
def test_a_trainer_makes_a_policy_that_learned(trainer, stage, context, artifacts, pairs):
    ctx = context({"base": artifacts["base"], "pairs": pairs})
    assert stage(trainer).check(ctx)["rows"] == {"DPOTrainer": 8, "KTOTrainer": 16, "SFTTrainer": 8}[trainer]
    metrics = stage(trainer).run(ctx)
    assert [event["step"] for event in steps(context)] == [1, 2, 3, 4] and steps(context)[-1]["steps"] == 4
    assert metrics["steps"] == 4 and metrics["loss"] < steps(context)[0]["loss"]
    made = load_policy(Artifact("policy", "made", ctx.out), store=ctx.store)  # verifies probes
    assert made.contract.stop == load_policy(artifacts["base"]).contract.stop
    assert not same(weights(ctx.out), weights(artifacts["base"].path))


def test_the_reference_is_the_policy_as_the_stage_finds_it(stage, context, artifacts, pairs):
    """The loss of DPO is ln 2 before the first update."""
    ctx = context({"base": artifacts["base"], "pairs": pairs})
    stage("DPOTrainer", {**ARGS, "max_steps": 1}).run(ctx)
    assert steps(context)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


@pytest.fixture
def adapted(context, artifacts):
    """A policy that is an adapter, far from zero, on top of another artifact; both in the store of `context`."""
    store, kept = context({}).store, {}
    for name, source in (("bottom", artifacts["base"]), ("adapted", None)):
        policy = load_policy(source or kept["bottom"], store=store, train=True, lora=None if source else Lora(r=2))
        if source is None:
            for parameter in policy.trainable().values():
                parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        policy.save(store.workspace(name) / "out", name)
        kept[name] = store.commit(name, "policy", {}, {"stage": name})
    return kept["adapted"]


def test_an_adapter_is_trained_on_the_parent_with_its_own_adapter(stage, context, adapted, pairs):
    """The reference is never the bare base: the loss of DPO is ln 2 before the first update here too."""
    tuned = stage("DPOTrainer", lora={"r": 2})
    ctx = context({"base": adapted, "pairs": pairs})
    tuned.check(ctx)
    metrics = tuned.run(ctx)
    assert steps(context)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5) and metrics["loss"] < 0.69
    assert (ctx.out / "adapter" / "adapter_model.safetensors").is_file() and not (ctx.out / "model").exists()
    parent = load_policy(adapted, store=ctx.store)
    made = load_policy(Artifact("policy", "made", ctx.out), store=ctx.store)
    assert len(made.adapters.names) == 1 and made.beneath == {"artifact": "adapted", "merge": True}
    with made.adapters.active([]):
        assert made.measure([5, 6, 7, 8]) == pytest.approx(parent.measure([5, 6, 7, 8]), abs=1e-4)


def test_adapters_are_merged_in_the_precision_that_trains(stage, context, adapted, pairs, monkeypatch):
    """Merged in bfloat16 the sums would be rounded, and training would start from another policy."""
    bottom = context({}).store.find("bottom")
    narrow = load_policy(bottom)
    narrow.contract = narrow.contract.model_copy(update={"dtype": "bfloat16"})
    shutil.rmtree(bottom.path / "model")
    narrow.save(bottom.path, "bottom")
    contract = Contract.read(adapted.path).model_copy(update={"dtype": "bfloat16", "probes": ()})
    contract.write(adapted.path)
    for file in (bottom.path / "manifest.json", adapted.path / "manifest.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"files": {}}))  # they are what they are now
    ctx = context({"base": adapted, "pairs": pairs})
    expected = load_policy(adapted, store=ctx.store)
    expected.model.float()
    expected.merge()

    class Started(Exception): ...

    def start(_, ctx, policy, watch):
        found, wanted = policy.model.state_dict(), expected.model.state_dict()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        raise Started

    monkeypatch.setattr(TRL, "_trainer", start)
    with pytest.raises(Started):
        stage("DPOTrainer").run(ctx)


def test_a_reference_that_trl_loads_by_name_becomes_the_parent(stage, context, adapted, pairs):
    """GRPO's KL to its reference is 0 before the first update, though the name is that of the bare base."""
    ctx = context({"base": adapted, "pairs": pairs})
    stage("GRPOTrainer", {**SAMPLING, "max_steps": 1}, rewards=[{"rule": "length", "better": "higher"}]).run(ctx)
    assert steps(context)[0]["kl"] == pytest.approx(0, abs=1e-5)


def test_a_stopped_run_goes_on_to_the_same_weights(stage, context, artifacts, pairs):
    inputs = {"base": artifacts["base"], "pairs": pairs}
    kto = stage("KTOTrainer", checkpoint={"every": 1, "keep": 1})
    ctx = context(inputs)
    kto.run(ctx)
    whole = weights(ctx.out)
    shutil.rmtree(ctx.out)
    shutil.rmtree(ctx.work)

    ctx = context(inputs)
    with pytest.raises(Interrupted, match="after step 2 of 4"):
        kto.run(dataclasses.replace(ctx, stopping=lambda: len(steps(context)) >= 1))
    assert [path.name for path in complete(ctx.work / "checkpoints")] == ["checkpoint-2"]
    assert [event["event"] for event in context.events].count("saved") == 2
    half = ctx.work / "checkpoints" / "checkpoint-3"  # as a kill in the middle of saving leaves it
    shutil.copytree(ctx.work / "checkpoints" / "checkpoint-2", half)
    (half / "model.safetensors").write_bytes(b"")
    assert newest(ctx) == ctx.work / "checkpoints" / "checkpoint-2" and not half.exists()
    context.events.clear()
    kto.run(ctx)
    assert [event["step"] for event in steps(context)] == [3, 4]
    assert same(weights(ctx.out), whole)


def test_rewards_of_align_score_the_replies_that_trl_samples(stage, context, artifacts, pairs):
    ctx = context({"base": artifacts["base"], "pairs": pairs})
    grpo = stage("GRPOTrainer", SAMPLING, rewards=[{"rule": "length", "better": "higher"}])
    assert grpo.check(ctx)["rows"] == 8
    metrics = grpo.run(ctx)
    assert 0 < metrics["rewards/length/mean"] <= 6


def test_a_teacher_is_distilled(stage, context, artifacts, pairs):
    args = {"per_device_train_batch_size": 2, "max_completion_length": 6, "max_steps": 1}
    ctx = context({"base": artifacts["base"], "tuned": artifacts["tuned"], "pairs": pairs})
    assert stage("DistillationTrainer", args, teacher="$tuned").run(ctx)["loss"] > 0


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"args": {"bta": 0.1}}, DependencyError, "args.bta: KTOConfig of trl .* no such field. Did you mean 'beta'"),
        ({"args": {"seed": 3}}, CheckError, "args.seed: is set by the recipe"),
        ({"args": {"hub_model_id": "me/it"}}, CheckError, "args.hub_model_id: is set"),
        ({"args": {"lr_scheduler_type": "stairs"}}, CheckError, "KTOConfig refuses them: .*stairs"),
        ({"args": {"max_length": 1000}}, CheckError, "args.max_length: more than the model's 96 positions"),
        ({"args": {"max_length": 8}}, CheckError, "longer than 8 tokens"),
        ({"trainer": "KTOTrainr"}, DependencyError, "has no 'KTOTrainr'. Did you mean 'KTOTrainer'"),
        ({"trainer": "PPOTrainer"}, DependencyError, "has no 'PPOTrainer'"),
        ({"trainer": "RewardTrainer"}, CheckError, "use `stage: reward_model`"),
        ({"rewards": ["length"]}, CheckError, "rewards: KTOTrainer takes none"),
        ({"trainer": "GRPOTrainer", "args": {}}, CheckError, "rewards: GRPOTrainer needs them"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(fields, error, says, stage, context, artifacts, pairs):
    ctx = context({"base": artifacts["base"], "pairs": pairs})
    with pytest.raises(error, match=says):
        stage(**{"trainer": "KTOTrainer", **fields}).check(ctx)


@pytest.mark.parametrize(
    ("row", "trainer", "says"),
    [
        ({"label": 0.7}, "DPOTrainer", "no soft or weighted labels"),
        ({"unfinished": ["chosen"]}, "DPOTrainer", "cut at a token limit"),
        ({"kind": "rated", "score": 3.5}, "KTOTrainer", "need thumbs"),
    ],
)
def test_rows_that_trl_would_misread_are_refused(row, trainer, says, stage, context, artifacts, rows):
    turn = [{"role": "assistant", "content": "happy"}]
    found = {"kind": "preference", "id": "a", "prompt": [{"role": "user", "content": "the cat"}], **row}
    worse = [{**turn[0], "content": "sad"}]
    found |= {"reply": turn} if found["kind"] == "rated" else {"chosen": turn, "rejected": worse}
    with pytest.raises(CheckError, match=says):
        stage(trainer).check(context({"base": artifacts["base"], "pairs": rows("odd", found)}))


def test_replies_without_their_end_are_refused(stage, context, pairs, tmp_path, monkeypatch):
    """The template `raw` writes no end, so the bridge adds it; were it lost, the policy would never learn to stop."""
    from_scratch(SIZES, words(), template="raw").save(tmp_path / "raw", "raw")
    ctx = context({"base": Artifact("policy", "raw", tmp_path / "raw"), "pairs": pairs})
    assert stage("KTOTrainer", {**ARGS, "max_steps": 1}).run(ctx)["steps"] == 1
    monkeypatch.setattr("align.stages.trl.ENDING", "")
    with pytest.raises(ContractError, match="completion_ids lack the stop id in 16 of 16 rows"):
        stage("KTOTrainer").run(ctx)


@pytest.mark.parametrize("template", ["plain", "raw"])
def test_trl_reads_the_same_tokens_as_align(template, artifacts):
    """Through the tokenizer that TRL gets, a conversation has the ids that `Chat` gives it, its end included."""
    from align.records import Message

    policy = load_policy(artifacts["base"])
    policy.contract = policy.contract.model_copy(update={"template": template})
    asked, said = Message("user", "the cat sat"), Message("assistant", " on the mat")
    made = tokenizer(policy)
    prompt = made.apply_chat_template([asked.row()], add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = made.apply_chat_template([asked.row(), said.row()], return_dict=True)["input_ids"]
    assert prompt == policy.chat.prompt((asked,))
    assert whole[: len(prompt)] == prompt
    assert whole[len(prompt) :][: len(policy.chat.reply((asked,), (said,)))] == policy.chat.reply((asked,), (said,))


def test_every_stable_trainer_of_the_installed_trl_comes_through_the_door():
    import trl

    for name in (name for name in dir(trl) if name.endswith("Trainer") and name != "RewardTrainer"):
        trainer, config = door(name)
        assert trainer.__name__ == name and config.__name__ == f"{name[:-7]}Config"
    assert STAGES["trl"] is TRL
