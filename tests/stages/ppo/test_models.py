"""Who takes part in PPO, on one backbone and apart: policy, critic, reward and reference are who they should be."""

import json
import math

import pytest
from safetensors.torch import load_file

from align.config import Lora, Model
from align.errors import ContractError, TrainingError
from align.models import policy as policies
from align.models.heads import load_reward
from align.records import Message, messages
from align.stages.ppo import PPO
from align.store import Artifact
from align.train import online_setup
from align.train.online_setup import setting
from tests.stages.conftest import SIZES, tokenizer, with_contract
from tests.stages.ppo.conftest import LORA, ONE_BACKBONE, OPTIM, SAMPLING, STAGE, notes_of, steps_of


def test_policy_critic_reward_and_reference_share_one_backbone(inputs, context):
    """Nothing is loaded but one model, all of them are right, and what is saved is the policy's adapter alone."""
    made = STAGE | ONE_BACKBONE | {"steps": 1, "sampling": SAMPLING | {"n": 2}}
    ctx = context(inputs)
    figures = PPO(**made).check(ctx)
    PPO(**made).run(ctx)
    assert "the critic starts from reward 'adapted', on the policy's backbone" in notes_of(context)
    (step,) = steps_of(context)
    assert step["kl"] == pytest.approx(0, abs=1e-6)
    parent = load_reward(inputs["base"], train=True, lora=Lora(r=2), seed=5)  # what `adapted` was saved from
    for row in (json.loads(r) for r in (ctx.out / "samples" / "step-000001.jsonl").read_text().splitlines()):
        ids = parent.chat.prompt(messages(row["prompt"]))
        ids += parent.chat.reply(messages(row["prompt"]), (Message("assistant", row["reply"]),))
        assert row["scores"]["adapted"] == pytest.approx(parent.measure(ids)[0], abs=1e-4)
    saved = load_file(ctx.out / "adapter" / "adapter_model.safetensors")
    assert len(saved) == 2 * 2 * 2  # layers, targets, halves
    # By hand: 32 wide, 2 layers; the policy's two targets of rank 4, and seven of rank 2 for the reward and the critic.
    # Of the critic, a head more trains, of 32 numbers.
    policy, reward = 2 * 2 * 4 * (32 + 32), 2 * 2 * (4 * (32 + 32) + 3 * (32 + 48))
    assert figures["adapter bytes"] == 4 * (policy + 2 * reward)
    assert figures["optimizer bytes"] == 12 * (policy + reward)
    player, *_ = setting(context(inputs), PPO(**made), PPO(**made).value)
    assert sum(p.numel() for p in player.module.parameters() if p.requires_grad) == policy + reward + 32
    alone = PPO(**made | {"value": {"start": "policy"}}).check(context(inputs))
    assert alone["adapter bytes"] == 4 * (2 * policy + reward)
    assert alone["optimizer bytes"] == 12 * 2 * policy
    assert figures["policy bytes"] == 4 * figures["parameters"]
    assert not {"critic bytes", "reward bytes", "reference bytes"} & figures.keys()
    full = PPO(**STAGE | {"reward": "$judge", "doubtful_reward": "allow"}).check(context(inputs))
    weights = 4 * full["parameters"]
    head = 4 * 32 * (len(parent.tokenizer) - 1)  # the reward model has one score in place of the vocabulary
    assert full["reward bytes"] == weights - head
    assert full["critic bytes"] == weights - head
    assert [full[f"{part} bytes"] for part in ("policy", "reference", "optimizer")] == [
        weights, weights, 3 * (2 * weights - head)
    ]  # fmt: skip
    assert full["memory bytes"] == 10 * weights - 5 * head


def test_the_reference_is_the_parent_and_stays_it(inputs, context):
    """Trap 1: KL is 0 before the first update; with an adapter, full weights or not, it is measured to the parent."""
    for lora in (None, LORA):
        ctx = context(inputs)
        PPO(**STAGE | {"optim": OPTIM | {"lr": 1e-2}}, lora=lora).run(ctx)
        first, *others = steps_of(context)
        assert first["kl"] == pytest.approx(0, abs=1e-6)
        assert max(abs(s["kl"]) for s in others) > 1e-4
        for folder in (ctx.work, ctx.out):
            for file in sorted(folder.rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()


def test_a_reference_that_is_not_the_parent_is_found_out(inputs, context, monkeypatch):
    """Trap 1: as if an adapter were disabled too far."""
    other = policies.load_policy(inputs["tuned"])
    monkeypatch.setattr(policies.Policy, "_parent", lambda self: other)
    with pytest.raises(TrainingError, match="the reference is not the policy that begins to train"):
        PPO(**STAGE).run(context(inputs))


def test_dropout_is_off_also_while_it_trains(inputs, context, tmp_path, monkeypatch):
    """Trap 8: left on, the policy that learns is not the one that was measured, and the first update says so."""
    policies.from_scratch(SIZES | {"attention_dropout": 0.5}, tokenizer(), template="plain").save(tmp_path / "p", "p")
    given, stage = inputs | {"base": Artifact("policy", "key-of-p", tmp_path / "p")}, PPO(**STAGE | {"steps": 1})
    stage.run(context(given))
    assert steps_of(context)[0]["kl"] == pytest.approx(0, abs=1e-5)
    monkeypatch.setattr(online_setup, "without_dropout", lambda module: None)
    with pytest.raises(TrainingError, match=r"probability ratio is .* away from 1"):
        stage.run(context(given))


def test_a_reward_model_reads_text_with_its_own_tokenizer(inputs, context, byte_tokenizer, tmp_path):
    """Trap 23: one of bytes scores replies of a policy of words; as the critic, which shares tokens, it is refused."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    (tmp_path / "bytes").mkdir()
    (tmp_path / "judge2").mkdir()
    policies.from_scratch(sizes | {"max_position_embeddings": 512}, byte_tokenizer).save(tmp_path / "bytes", "bytes")
    load_reward(Artifact("policy", "bytes", tmp_path / "bytes"), train=True).save(tmp_path / "judge2", "judge2")
    given = inputs | {"judge": Artifact("reward", "judge2", tmp_path / "judge2")}
    made = STAGE | {"reward": "$judge", "doubtful_reward": "allow", "steps": 1}
    ctx = context(given)
    PPO(**made).run(ctx)
    assert "the critic starts from the policy" in notes_of(context)
    (first,) = steps_of(context)
    rows = [json.loads(row) for row in (ctx.out / "samples" / "step-000001.jsonl").read_text().splitlines()]
    judge = load_reward(given["judge"])
    for row in rows:
        prompt, said = messages(row["prompt"]), (Message("assistant", row["reply"]),)
        ids = judge.chat.prompt(prompt) + judge.chat.reply(prompt, said)
        assert row["scores"]["judge"] == pytest.approx(judge.measure(ids)[0], abs=1e-4)
    assert math.isfinite(first["reward"])
    for act in (PPO.check, PPO.run):
        with pytest.raises(ContractError, match="no trained reward shares the policy's tokens: tokenizer differs"):
            act(PPO(**made, value={"start": "reward"}), context(given))
    PPO(**made | {"steps": 1}).run(context(inputs))
    assert "the critic starts from reward 'judge'" in notes_of(context)
    other = with_contract(inputs["judge"], tmp_path / "begins", bos=1)  # the same words, but texts begin with <s>
    begins = inputs | {"judge": other}
    with pytest.raises(ContractError, match="no trained reward shares the policy's tokens: bos"):
        PPO(**made, value={"start": "reward"}).check(context(begins))
    with pytest.raises(ContractError, match=r"tokens: there is none. Write policy, or shared"):
        PPO(**STAGE, value={"start": "reward"}).check(context(inputs))


def test_a_reward_model_from_outside_is_a_critic_where_asked_for(inputs, context):
    """Unasked a critic starts from the policy, which may be far smaller."""
    theirs = {"model": {"path": str(inputs["judge"].path / "model"), "template": "plain"}, "name": "theirs"}
    stage = STAGE | {"reward": theirs, "steps": 1}
    PPO(**stage, value={"start": "reward"}).run(context(inputs))
    assert "the critic starts from reward 'theirs'" in notes_of(context)
    assert "reward 'theirs' comes from outside: nothing here says how good it is" in notes_of(context)
    PPO(**stage).run(context(inputs))
    assert "the critic starts from the policy" in notes_of(context)


def test_a_policy_that_arrives_as_somebodys_adapter_can_be_its_own_critic(inputs, context, tmp_path):
    """Merged into full weights that train, and once more for the critic."""
    loaded = policies.load_policy(inputs["base"], train=True, lora=Lora(r=2))
    loaded.adapters.save(loaded.own, tmp_path / "theirs", base=str(inputs["base"].path / "model"))
    stage = PPO(**STAGE | {"policy": "$theirs", "steps": 1}, adapter="merge-first", value={"start": "policy"})
    given = inputs | {"theirs": Model(path="theirs", template="plain")}  # its folder is relative to the recipe's
    stage.check(context(given))
    stage.run(context(given))
    (step,) = steps_of(context)
    assert step["kl"] == pytest.approx(0, abs=1e-5)


def test_models_that_train_compute_activations_again_where_memory_is_short(inputs, context):
    stage = PPO(**STAGE)
    player, *_ = setting(context(inputs, checkpointing=True), stage, stage.value)
    assert player.policy.model.is_gradient_checkpointing and player.module.critic.model.is_gradient_checkpointing
