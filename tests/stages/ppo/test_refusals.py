"""What PPO refuses before it computes: rewards, prompts and fields that would mislead."""

import dataclasses

import pytest

from align.errors import CheckError, TrainingError
from align.models import policy as policies
from align.models.heads import load_reward
from align.models.policy import from_scratch
from align.records import Message
from align.stages.ppo import PPO
from align.stages.reward_model import RewardModel
from align.store import Artifact
from align.train import rollout
from tests.stages.conftest import SIZES, WORDS, tokenizer
from tests.stages.ppo.conftest import LORA, SAMPLING, STAGE, notes_of

GRPO = {"advantage": "grpo", "sampling": {"n": 2}}


def with_test(judge: Artifact, accuracy: float, p: float) -> Artifact:
    """The reward model as if it had been tested beside a rule that is right on 60 %."""
    found = {"test_accuracy": accuracy, "test_pairs": 300.0, "length_accuracy": 0.6, "length_p": p}
    return dataclasses.replace(judge, metrics=found | {"length_correlation": 0.1})


def test_a_useless_reward_model_is_refused(inputs, context):
    """Trap 28: untested, or no better than a rule that knows lengths only."""
    stage = PPO(**STAGE | {"reward": "$judge"})
    with pytest.raises(CheckError, match="reward 'judge' was not tested; give its stage `test:`"):
        stage.check(context(inputs))
    with pytest.raises(CheckError, match="was not tested"):
        stage.run(context(inputs))
    hidden = {"ensemble": {"members": ["$judge", "happy"]}, "name": "both"}
    with pytest.raises(CheckError, match="reward 'judge' was not tested"):
        PPO(**STAGE | {"reward": hidden}).check(context(inputs))
    for accuracy, p in ((0.62, 0.4), (0.5, 0.001)):
        with pytest.raises(CheckError, match=r"a rule that knows lengths only on 60.0%"):
            stage.check(context(inputs | {"judge": with_test(inputs["judge"], accuracy, p)}))
    stage.check(context(inputs | {"judge": with_test(inputs["judge"], 0.7, 0.001)}))
    assert "right on 70.0% of held-out pairs; its correlation with length is +0.10" in notes_of(context)
    PPO(**STAGE | {"reward": "$judge", "doubtful_reward": "allow"}).check(context(inputs))
    assert "was not tested" in notes_of(context)


def test_what_cannot_be_trusted_is_refused_before_anything_computes(inputs, context, monkeypatch):
    with pytest.raises(CheckError, match=r"a step answers 32 prompts .* but there are only 12"):
        PPO(**STAGE | {"minibatches": 8}).check(context(inputs))
    with pytest.raises(CheckError, match=r"of 12 prompts \(\d+.\d%\) leave no room for 88 new tokens"):
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
    assert f"1 of 12 prompts (8.3%) leave no room for {97 - longest} new tokens, such as prompt " in notes_of(context)
    assert f" has {longest} tokens for base, whose context is 96; they are asked of nobody" in notes_of(context)
    with pytest.raises(CheckError, match=r"1 of 12 prompts .*; 5.0% may be \(max_too_long\)"):
        PPO(**fields, max_too_long=0.05).check(context(inputs))


NARROW = STAGE | {"reward": "$narrow", "doubtful_reward": "allow", "sampling": {"max_new_tokens": 14}}


@pytest.fixture
def narrow(tmp_path):
    """Makes a policy of a tokenizer and few positions, and a reward model on it."""

    def make(tokens, positions: int) -> tuple[Artifact, Artifact]:
        below, made = Artifact("policy", "below", tmp_path / "below"), Artifact("reward", "made", tmp_path / "made")
        sizes = SIZES | {"max_position_embeddings": positions}
        policies.from_scratch(sizes, tokens, template="plain").save(below.path, "below")
        load_reward(below, train=True).save(made.path, "made")
        return below, made

    return make


@pytest.mark.parametrize(("positions", "left"), [(29, 12), (27, 10), (26, 9)])
def test_prompts_that_leave_a_reward_model_no_room_are_found_before_it_is_made(
    positions, left, inputs, context, narrow
):
    """By hand: 1 to 12 words, "User:" and "Assistant:", 14 new tokens and the one that closes a reply."""
    below, made = narrow(tokenizer(), positions)
    stage = PPO(**NARROW, max_too_long=0.2)
    before = dataclasses.replace(context(inputs), forerunners={"narrow": below})
    for ctx in (before, context(inputs | {"narrow": made})):
        if left >= 0.8 * 12:
            assert stage.check(ctx)["prompts"] == left
        else:
            with pytest.raises(CheckError, match=r"3 of 12 prompts .* for narrow, whose context is 26; 20.0% may be"):
                stage.check(ctx)


def test_a_reward_model_that_makes_more_tokens_of_a_reply_needs_more_room(inputs, context, byte_tokenizer, narrow):
    """The twelve prompts have 78 words and 281 bytes, so 14 words are expected to have 51 bytes."""
    _, made = narrow(byte_tokenizer, 96)
    with pytest.raises(CheckError, match=r"for narrow, whose context is 96 and a reply may have 52; 10.0% may be"):
        PPO(**NARROW).check(context(inputs | {"narrow": made}))


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


@pytest.mark.parametrize(
    ("stage", "refused"),
    [
        (None, True),
        ({}, True),
        ({"value": {"start": "shared"}}, False),
        ({"lora": LORA}, False),
        ({"sampling": SAMPLING | {"n": 2}, "advantage": "rloo"}, False),
    ],
    ids=["reward", "ppo", "shared", "lora", "rloo"],
)
def test_a_model_that_cannot_be_made_to_score_is_found_before_anything_computes(
    stage, refused, inputs, context, rows, tmp_path
):
    """As of Granite, of which transformers has no sequence classifier."""
    made = RewardModel(policy="$base", data="$pairs", max_length=64) if stage is None else PPO(**STAGE | stage)
    from_scratch(SIZES | {"architecture": "granite"}, tokenizer(), template="plain").save(tmp_path / "granite", "it")
    pairs = rows("pairs", *[{"prompt": "the cat", "chosen": "sat", "rejected": "bad log"}] * 16)
    ctx = context(inputs | {"base": Artifact("policy", "granite", tmp_path / "granite"), "pairs": pairs})
    if refused:
        with pytest.raises(CheckError, match="transformers has no sequence classifier for granite"):
            made.check(ctx)
    else:
        made.check(ctx)
