"""PPO as a recipe runs it: what it refuses, that it stops and goes on without a trace, and that it learns."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from align.config import Lora, Model
from align.errors import CheckError, ContractError, Interrupted, TrainingError
from align.models import policy as policies
from align.models.heads import load_reward
from align.plugins import forget_plugins, load_plugin
from align.records import Message, messages
from align.stages.ppo import PPO
from align.store import Artifact
from align.train import online_setup, rollout
from align.train.online_setup import setting
from tests.stages.conftest import SIZES, WORDS, tokenizer

RULE = '''
from align.rewards.base import reward

@reward("happy")
def happy(prompt, reply: str) -> float:
    """The share of words that are happy or good."""
    words = reply.split()
    return sum(word in ("happy", "good") for word in words) / max(len(words), 1)

@reward("sober")
def sober(prompt, reply: str) -> float:
    """The share of words that are neither; nothing to say of an empty reply."""
    words = reply.split()
    return sum(word not in ("happy", "good") for word in words) / len(words) if words else float("nan")

@reward("short", better="lower")
def short(prompt, reply: str) -> float:
    """Words."""
    return float(len(reply.split()))
'''
OPTIM = {"lr": 3e-3, "batch_size": 4, "schedule": "constant", "warmup": 0.0}
SAMPLING = {"max_new_tokens": 8}
STAGE = {
    "policy": "$base", "prompts": "$prompts", "reward": "happy", "sampling": SAMPLING, "optim": OPTIM,
    "minibatches": 2, "epochs": 2, "steps": 3,
}  # fmt: skip
GRPO = {"advantage": "grpo", "sampling": {"n": 2}}
LORA = {"r": 4, "targets": ["q_proj", "v_proj"]}


@pytest.fixture(autouse=True)
def rules(tmp_path):
    (tmp_path / "rules.py").write_text(RULE)
    load_plugin(tmp_path / "rules.py")
    yield
    forget_plugins()


@pytest.fixture
def inputs(artifacts, prompts, rows):
    words = ("cat", "dog", "mat", "log", "off", "good")
    shown = rows("shown", *({"prompt": f"the {word}", "completion": "so very sad"} for word in words))
    return artifacts | {"prompts": prompts, "shown": shown}


def with_test(judge: Artifact, accuracy: float, p: float) -> Artifact:
    """The reward model as if it had been tested beside a rule that is right on 60 %."""
    found = {"test_accuracy": accuracy, "test_pairs": 300.0, "length_accuracy": 0.6, "length_p": p}
    return dataclasses.replace(judge, metrics=found | {"length_correlation": 0.1})


def steps_of(context) -> list[dict]:
    return [e for e in context.events if e["event"] == "step"]


def notes_of(context) -> str:
    return "\n".join(e["text"] for e in context.events if e["event"] == "note")


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo", "reinforce++"])
def test_it_raises_what_it_is_rewarded_for(advantage, inputs, context):
    """The share of happy words, on held-out prompts, beyond the interval; and says what people watch."""
    made = STAGE | {"sampling": SAMPLING | {"n": 4}, "steps": 12, "optim": OPTIM | {"lr": 5e-3}}
    stage = PPO(**made, advantage=advantage, held_out={"prompts": "$prompts", "every": 6}, show=5)
    ctx = context(inputs)
    stage.check(ctx)
    metrics = stage.run(ctx)
    assert metrics["held_out_gain_low"] > 0.05
    assert "12 of 12 held-out prompts are trained on too" in notes_of(context)
    assert metrics["held_out_reward"] - metrics["held_out_reward_before"] == pytest.approx(metrics["held_out_gain"])
    steps = steps_of(context)
    assert [s["step"] for s in steps] == list(range(1, 13))
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-5) and steps[-1]["kl"] > 0.05
    watched = {
        "reward", "reward_happy", "kl", "entropy", "clip_fraction", "ratio", "approx_kl", "advantage",
        "advantage_spread", "tokens", "stop", "length_correlation", "drift", "rollout_tokens_per_second",
        "update_tokens_per_second",
    }  # fmt: skip
    assert watched <= steps[0].keys()
    assert ({"value_loss", "explained_variance"} <= steps[0].keys()) == (advantage == "gae")
    assert [s["step"] for s in steps if "held_out_reward" in s] == [6]
    assert json.loads((ctx.out / "held_out.json").read_text())["reward"]["difference"]["n"] == 12
    assert [f.stem for f in sorted((ctx.out / "samples").iterdir())] == ["step-000001", "step-000005", "step-000010"]
    row = json.loads((ctx.out / "samples" / "step-000010.jsonl").read_text().splitlines()[0])
    assert row["policy"] == "step 10" and "happy" in row["scores"]


def tensors(folder) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}/{name}": tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


ONE_BACKBONE = {"reward": "$adapted", "doubtful_reward": "allow", "lora": LORA}
FORMS = {
    "critic of its own": {
        "value": {"start": "policy", "lr": 1e-2}, "kl": {"target": 0.01}, "sampling": SAMPLING | {"temperature": 0.8}
    },
    "shared critic, lora": {"value": {"start": "shared"}, "lora": LORA, "kl": {"target": 0.01}},
    "one backbone, demonstrations": ONE_BACKBONE | {"ptx": {"data": "$shown"}, "normalize_rewards": True},
    "critic from the reward": {"reward": "$judge", "doubtful_reward": "allow"},
    "rloo, early stops": {"advantage": "rloo", "sampling": SAMPLING | {"n": 2}, "stop_kl": 1e-3},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("moment", ["after step 1", "in the rollout of step 3"])
def test_a_stage_that_was_stopped_ends_with_the_same_bits(form, moment, inputs, context, tmp_path):
    """Trap 16: policy, critic, both optimizers, the KL controller, the running normalisation and the cursors of prompts
    and demonstrations go on, between steps and within one."""
    stage = PPO(**STAGE | FORMS[form], held_out={"prompts": "$prompts"})
    ctx = context(inputs)
    whole = stage.run(ctx)
    straight, weights = steps_of(context), tensors(ctx.out)
    ctx.out.rename(tmp_path / "straight")
    # Asked after each batch of 12 replies (held out) and of 8 (three rollouts), and after each step.
    asked = {"after step 1": 3, "in the rollout of step 3": 6}[moment]
    questions = iter(range(1, 99))
    with pytest.raises(Interrupted, match=r"after step [12] of 3"):
        stage.run(dataclasses.replace(context(inputs), stopping=lambda: next(questions) == asked))
    done = len(steps_of(context))
    assert done == {"after step 1": 1, "in the rollout of step 3": 2}[moment]
    (saved,) = (ctx.work / "checkpoints").iterdir()
    state = json.loads((saved / "complete.json").read_text())["state"]
    assert state["scores"]["count"] == (8 * done if stage.normalize_rewards else 0)  # all replies so far
    ctx = context(inputs)
    again = stage.run(ctx)
    resumed = steps_of(context)
    assert [s["step"] for s in resumed] == [1, 2, 3][done:]
    timeless = {k for k in straight[0] if not k.endswith(("second", "left"))}
    assert [{k: s[k] for k in timeless} for s in resumed] == [{k: s[k] for k in timeless} for s in straight[done:]]
    assert again == whole
    found = tensors(ctx.out)
    assert weights.keys() == found.keys() and all(torch.equal(weights[name], found[name]) for name in weights)


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
    assert [full[f"{part} bytes"] for part in ("policy", "critic", "reference", "optimizer")] == [
        weights, weights, weights, 6 * weights
    ]  # fmt: skip
    assert full["memory bytes"] == 10 * weights - head


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


def test_a_useless_reward_model_is_refused(inputs, context):
    """Trap 28: untested, or no better than a rule that knows lengths only."""
    stage = PPO(**STAGE | {"reward": "$judge"})
    with pytest.raises(CheckError, match="reward 'judge' was not tested; give its stage `test:`"):
        stage.check(context(inputs))
    with pytest.raises(CheckError, match="was not tested"):
        stage.run(context(inputs))
    for accuracy, p in ((0.62, 0.4), (0.5, 0.001)):
        with pytest.raises(CheckError, match=r"a rule that knows lengths only on 60.0%"):
            stage.check(context(inputs | {"judge": with_test(inputs["judge"], accuracy, p)}))
    stage.check(context(inputs | {"judge": with_test(inputs["judge"], 0.7, 0.001)}))
    assert "right on 70.0% of held-out pairs; its correlation with length is +0.10" in notes_of(context)
    PPO(**STAGE | {"reward": "$judge", "doubtful_reward": "allow"}).check(context(inputs))
    assert "was not tested" in notes_of(context)


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
    with pytest.raises(ContractError, match="no trained reward shares the policy's tokens: tokenizer differs"):
        PPO(**made, value={"start": "reward"}).run(context(given))
    PPO(**made | {"steps": 1}).run(context(inputs))
    assert "the critic starts from reward 'judge'" in notes_of(context)
    shutil.copytree(inputs["judge"].path, tmp_path / "begins")  # the same vocabulary, but texts begin with <s>
    contract = json.loads((tmp_path / "begins" / "contract.json").read_text())
    (tmp_path / "begins" / "contract.json").write_text(json.dumps(contract | {"bos": 1}))
    begins = inputs | {"judge": Artifact("reward", "begins", tmp_path / "begins")}
    with pytest.raises(ContractError, match="no trained reward shares the policy's tokens: bos"):
        PPO(**made, value={"start": "reward"}).run(context(begins))


def test_what_cannot_be_trusted_is_refused_before_anything_computes(inputs, context, monkeypatch):
    with pytest.raises(CheckError, match=r"a step answers 32 prompts .* but there are only 12"):
        PPO(**STAGE | {"minibatches": 8}).check(context(inputs))
    with pytest.raises(CheckError, match=r"of 12 prompts are longer than the 8 tokens that a context of 96 leaves"):
        PPO(**STAGE | {"sampling": {"max_new_tokens": 88}}).check(context(inputs))
    with pytest.raises(CheckError, match="'length' calls no score better"):
        PPO(**STAGE | {"reward": "length"}).check(context(inputs))
    with pytest.raises(ValueError, match="two rewards are called 'happy'"):
        PPO(**STAGE | {"reward": ["happy", {"from": "happy", "weight": 2}]}).check(context(inputs))
    monkeypatch.setitem(rollout.DRIFT, "float32", -1.0)
    with pytest.raises(TrainingError, match="sampling and training disagree"):
        PPO(**STAGE).run(context(inputs))


def test_prompts_without_room_for_a_reply_are_left_out_and_counted(inputs, context):
    """Trap 14, of a context of 96: one of twelve is a token too long."""
    chat = policies.load_policy(inputs["base"]).chat
    longest = len(chat.prompt((Message("user", " ".join(WORDS.split()[:12])),)))
    fields = STAGE | {"sampling": {"max_new_tokens": 96 - longest + 1}}
    assert PPO(**fields).check(context(inputs))["prompts"] == 11
    assert f"left out 1 of 12 prompts that are longer than {longest - 1} tokens" in notes_of(context)
    with pytest.raises(CheckError, match="1 of 12 prompts are longer"):
        PPO(**fields, max_too_long=0.05).check(context(inputs))


def test_a_sum_of_rewards_shows_each_part(inputs, context):
    """Happy words count 2, and each word costs a tenth, for of `short` the lower is the better."""
    parts = [{"from": "happy", "weight": 2}, {"from": "short", "weight": 0.1}]
    stage = PPO(**STAGE | {"reward": parts, "steps": 1}, missing_eos_penalty=1)
    stage.run(context(inputs))
    (step,) = steps_of(context)
    expected = 2 * step["reward_happy"] - 0.1 * step["reward_short"] - (1 - step["stop"])
    assert step["reward"] == pytest.approx(expected)


def test_a_hacked_reward_is_found_out(inputs, context):
    """What is only watched is the share of sober words, which falls as that of happy ones rises."""
    made = STAGE | {"steps": 12, "optim": OPTIM | {"lr": 1e-2}, "epochs": 4}
    stage = PPO(**made, watch=["sober"], held_out={"prompts": "$prompts"})
    stage.check(context(inputs))
    metrics = stage.run(context(inputs))
    first, *_, last = steps_of(context)
    assert first["reward"] == first["reward_happy"] and last["reward_sober"] < first["reward_sober"]
    assert metrics["hacked"] == 1
    assert "what is only watched got worse: 'sober' by -" in notes_of(context)


def test_training_stops_at_a_hacked_reward_and_goes_back(inputs, context):
    """To the weights of the last examination that was above suspicion, or of none but that before training."""
    made = STAGE | {"steps": 12, "optim": OPTIM | {"lr": 1e-2}, "epochs": 4, "hacking": {"then": "stop"}}
    stage = PPO(**made, watch=["sober"], held_out={"prompts": "$prompts", "every": 4})
    ctx = context(inputs)
    metrics = stage.run(ctx)
    steps = steps_of(context)
    assert metrics["hacked"] == 1 and metrics["steps"] == steps[-1]["step"] - 4 < 8
    before = {0: metrics["held_out_reward_before"]} | {s["step"]: s.get("held_out_reward") for s in steps}
    assert metrics["held_out_reward"] == pytest.approx(before[metrics["steps"]], abs=1e-6)
    assert "'sober' by -" in notes_of(context) and "; training ends" in notes_of(context)
    verdict = json.loads((ctx.out / "held_out.json").read_text())["verdict"]
    weights = tensors(ctx.out)
    assert verdict["hacked"] and "'sober'" in verdict["signs"][0] and verdict["steps"] == metrics["steps"]


    asked = []  # to stop in the first examination after training began, and ever since

    def stopping() -> bool:
        asked.extend(e for e in context.events[-1:] if e.get("what") == "held-out prompts" and steps_of(context))
        return bool(asked)

    for folder in (ctx.work, ctx.out):
        shutil.rmtree(folder)
    with pytest.raises(Interrupted):
        stage.run(dataclasses.replace(context(inputs), stopping=stopping))
    ctx = context(inputs)
    assert stage.run(ctx) == metrics
    assert all(torch.equal(weights[name], tensor) for name, tensor in tensors(ctx.out).items())


def test_a_reward_that_proves_to_be_hacked_in_the_end_is_gone_back_from_too(inputs, context):
    made = STAGE | {"steps": 8, "optim": OPTIM | {"lr": 1e-2}, "epochs": 4, "hacking": {"then": "stop"}}
    ctx = context(inputs)
    metrics = PPO(**made, watch=["sober"], held_out={"prompts": "$prompts", "every": 8}).run(ctx)
    assert metrics["hacked"] == 1 and metrics["steps"] == 0
    assert metrics["held_out_reward"] == metrics["held_out_reward_before"]
    parent, found = load_file(inputs["base"].path / "model" / "model.safetensors"), tensors(ctx.out)
    assert all(torch.equal(tensor, found[f"model/{name}"]) for name, tensor in parent.items())


def test_an_entropy_bonus_teaches_where_all_replies_did_equally_well(inputs, context):
    """Without one there is nothing to learn from, and no update is made."""
    made = STAGE | {"kl": {"coefficient": 0.0}, "advantage": "rloo", "sampling": SAMPLING | {"n": 2}, "steps": 1}
    for entropy, updates in ((0.0, 0), (0.1, 4)):
        PPO(**made | {"reward": {"rule": "happy", "scale": 0.0}}, entropy=entropy).run(context(inputs))
        assert [s["updates"] for s in steps_of(context)] == [updates]


def test_a_policy_that_arrives_as_somebodys_adapter_can_be_its_own_critic(inputs, context, tmp_path):
    """Merged into full weights that train, and once more for the critic."""
    loaded = policies.load_policy(inputs["base"], train=True, lora=Lora(r=2))
    loaded.adapters.save(loaded.own, tmp_path / "theirs", base=str(inputs["base"].path / "model"))
    stage = PPO(**STAGE | {"policy": "$theirs", "steps": 1}, adapter="merge-first", value={"start": "policy"})
    stage.run(context(inputs | {"theirs": Model(path="theirs", template="plain")}))
    (step,) = steps_of(context)
    assert step["kl"] == pytest.approx(0, abs=1e-5)


def test_models_that_train_compute_activations_again_where_memory_is_short(inputs, context):
    stage = PPO(**STAGE)
    player, *_ = setting(context(inputs, checkpointing=True), stage, stage.value)
    assert player.policy.model.is_gradient_checkpointing and player.module.critic.model.is_gradient_checkpointing


def test_a_policy_that_learns_from_demonstrations_too_says_what_they_say(inputs, context):
    """PPO-ptx on rewards that never differ: only the demonstrations teach."""
    made = STAGE | {"kl": {"coefficient": 0.0}, "advantage": "rloo", "sampling": SAMPLING | {"n": 2}, "epochs": 4}
    nothing = {"rule": "happy", "scale": 0.0}
    PPO(**made | {"reward": nothing}, ptx={"data": "$shown"}).run(context(inputs))
    losses = [s["ptx_loss"] for s in steps_of(context)]
    assert losses[-1] < 0.5 * losses[0]
    with pytest.raises(CheckError, match=r"an update learns from 9 demonstrations .* but there are only 6"):
        stage = PPO(**made | {"optim": OPTIM | {"batch_size": 9}, "minibatches": 1}, ptx={"data": "$shown"})
        stage.check(context(inputs))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"watch": ["repetition"]}, "watch tells on held-out prompts whether the reward was hacked; give held_out"),
        ({"sampling": {"top_p": 0.9}}, "top_p and top_k draw from another distribution"),
        ({"sampling": {"top_k": 5}}, "top_p and top_k draw from another distribution"),
        ({"sampling": {"temperature": 0}}, "temperature 0 tries nothing out"),
        ({"advantage": "rloo"}, "rloo compares replies to one prompt; set sampling.n"),
        ({"advantage": "reinforce++", "value": {"lr": 1e-3}}, "value has no effect with advantage: reinforce"),
        ({"advantage": "grpo", "sampling": {"n": 2}, "gae": {"lambda": 0.9}}, "gae has no effect"),
        ({"advantage": "reinforce++", "whiten_advantages": False}, "is whitened: that is its baseline"),
        ({"kl": {"where": "loss"}}, "k1 has no effect in the loss"),
        ({"kl": {"target": 0.1, "coefficient": 0}}, "target needs a coefficient above 0"),
        ({"hacking": {"max_kl": 0.1}}, "hacking is looked for on held-out prompts; give held_out"),
        ({"hacking": {"then": "stop"}, "held_out": {"prompts": "$prompts"}}, "stop needs held_out.every"),
        (
            GRPO | {"normalize_rewards": True, "kl": {"where": "loss", "estimator": "k2"}},
            "normalize_rewards has no effect with advantage: grpo",
        ),
        (
            {"advantage": "reinforce++", "normalize_rewards": True, "kl": {"coefficient": 0.0}},
            "normalize_rewards has no effect with advantage: reinforce",
        ),
        ({"advantage": "reinforce++", "gae": {"lambda": 0.9}}, "lambda has no effect with advantage: reinforce"),
        ({"reward": [{"from": "happy", "weight": 0}]}, "weight: 0 trains on nothing; name the reward under `watch`"),
        ({"reward": [{"from": "happy", "clip": [1, -1]}]}, "the lowest score must be below the highest"),
        ({"lora": {"dropout": 0.1}}, "lora.dropout must be 0 in ppo"),
    ],
)
def test_fields_that_would_mislead_or_have_no_effect_are_refused(fields, message):
    """Traps 9 and 11."""
    with pytest.raises(ValueError, match=message):
        PPO(**{"policy": "$base", "prompts": "$prompts", "reward": "happy"} | fields)
