"""Rollouts and updates on a tiny policy: who sampled is who trains, and a price of KL alone leads back to the
reference."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from align.config import Optim, Sampling
from align.data.tree import Reply, Tree, collate
from align.errors import CheckError, TrainingError
from align.generate.hf import HFGenerator
from align.machine import Machine
from align.models.critic import ActorCritic, value_head
from align.models.logprobs import LanguageModel
from align.models.policy import Policy, from_scratch
from align.records import Message, Prompt
from align.rewards.base import Rule
from align.train.credit import Credit
from align.train.learner import Learner, accelerator
from align.train.objectives import demonstrated, proximal_policy
from align.train.online_fields import Gae, Kl
from align.train.rollout import Player, Weighed, tokens

SIZES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
PROMPTS = [Prompt(str(i), (Message("user", text),)) for i, text in enumerate(["ab", "cat sat", "q", "the dog"])]
LONG = Rule("long", lambda prompt, reply: float(len(reply)))
WHOLE = Weighed(LONG)
MACHINE = Machine(device="cpu", max_tokens=256)


class Beside(Policy):
    """A policy whose reference is another model: as if it had been trained away from it."""

    @contextmanager
    def reference(self):
        yield self.other


def policies(tokenizer) -> Beside:
    made, other = (from_scratch(SIZES, tokenizer, template="raw", seed=seed) for seed in (0, 1))
    beside = Beside(made.model, made.tokenizer, made.contract, made.adapters)
    beside.other = other.model
    return beside


@pytest.fixture
def policy(byte_tokenizer) -> Beside:
    return policies(byte_tokenizer)


def player(policy, rewards=(WHOLE,), temperature=1.0, head=None, penalty=0.0, critic=None) -> Player:
    module = ActorCritic(LanguageModel(policy.model), critic, head)
    sampling = Sampling(max_new_tokens=6, temperature=temperature)
    return Player(
        policy, module, HFGenerator(policy, batch=5), rewards, sampling, penalty, accelerator(MACHINE), "tree", 256
    )


def learner(module, lr=1e-2, machine=MACHINE) -> Learner:
    optim = Optim(schedule="constant", warmup=0.0)
    return Learner(module, optim, lr=lr, steps=99, accelerator=accelerator(machine), machine=machine)


def objective(temperature=1.0, kl=("k1", 0.0), on_policy=1e-3, entropy=0.0):
    return proximal_policy(
        clip=0.2, temperature=temperature, entropy=entropy, kl=kl, value=(0.5, 0.2), on_policy=on_policy
    )


def credit(advantage="rloo", whiten=False, **kl) -> Credit:
    return Credit(advantage, Gae(**{"lambda": 0.95}), Kl(**kl), False, whiten)


def test_what_is_measured_is_what_the_model_says_at_the_sampling_temperature(policy):
    """Trap 9: by the model's own logits, each reply alone, over temperature."""
    (turn, *_) = player(policy, temperature=0.7).play(PROMPTS, seed=3, n=2)
    for reply in turn.tree.replies:
        ids = torch.tensor([[*turn.tree.prompt.tolist(), *reply.ids.tolist()]])
        for model, name in ((policy.model, "logp"), (policy.other, "reference")):
            with torch.no_grad():
                logp = (model(ids).logits[0, len(turn.tree.prompt) - 1 : -1] / 0.7).log_softmax(-1)
            own = logp.gather(-1, ids[0, len(turn.tree.prompt) :, None])[:, 0]
            assert reply.numbers[name] == pytest.approx(own.numpy(), abs=1e-4)
            if name == "logp":
                assert reply.numbers["entropy"] == pytest.approx(-(logp.exp() * logp).sum(-1).numpy(), abs=1e-4)
        assert reply.numbers["sampled"] == pytest.approx(reply.numbers["logp"], abs=1e-4)


def test_replies_do_not_depend_on_who_is_asked_beside(policy):
    """What makes ranks draw what one process would."""
    whole = player(policy).play(PROMPTS, seed=3, n=2)
    (alone,) = player(policy).play(PROMPTS[2:3], seed=3, n=2)
    assert [c.ids for c in whole[2].completions] == [c.ids for c in alone.completions]
    other = player(policy).play(PROMPTS, seed=4, n=2)
    assert [t.completions for t in whole] != [t.completions for t in other]


def test_scores_are_the_weighed_sum_of_clipped_parts_less_what_a_missing_end_costs(policy):
    never = Rule("never", lambda prompt, reply: float("nan"))
    worse = Rule("worse", lambda prompt, reply: float(len(reply)), better="lower")
    parts = (Weighed(LONG, 2.0, (0.0, 3.0)), Weighed(worse, 0.5), Weighed(never))
    turns = player(policy, parts, penalty=10.0).play(PROMPTS, seed=3, n=2)
    for turn in turns:
        for completion, score in zip(turn.completions, turn.scores, strict=True):
            size = len(completion.text)
            assert score == pytest.approx(2 * min(size, 3) - 0.5 * size - 10 * (completion.finish == "length"))
    assert "never" not in turns[0].samples("me")[0].scores and turns[0].samples("me")[0].scores["long"] >= 0
    with pytest.raises(CheckError, match="no reward says anything about 4 of 4 replies, the first to prompt 0: 'ab'"):
        player(policy, (Weighed(never),)).play(PROMPTS, seed=3, n=1)


class Judge:
    """A reward of 1, 2, 3 ... that is no rule, and has nothing to say at some places."""

    name, better = "judge", "higher"

    def __init__(self, *silent: int):
        self.silent = silent

    def __call__(self, prompts, replies) -> list[float]:
        return [float("nan") if i in self.silent else i + 1.0 for i in range(len(replies))]


def test_a_reply_that_a_judge_says_nothing_about_teaches_nothing(policy):
    """One in ten may be so. It earns what the others to its prompt did, 4 and 6, or, alone, what all did: else a run
    whose judge could not be read once would end there each time it went on."""

    def earned(n, *silent, penalty=0.0):
        turns = player(policy, (Weighed(Judge(*silent)),), penalty=penalty).play(PROMPTS, seed=3, n=n)
        cut = [[c.finish == "length" for c in turn.completions] for turn in turns]
        return np.array([turn.scores for turn in turns]) + penalty * np.array(cut)

    assert earned(3, 4).tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
    assert earned(3, 3, penalty=2.0)[1].tolist() == [5.5, 5, 6]
    assert earned(1, 2).ravel().tolist() == pytest.approx([1, 2, (1 + 2 + 4) / 3, 4])
    with pytest.raises(CheckError, match="about 2 of 12 replies, the first to prompt 1"):
        earned(3, 4, 5)
    rule = Rule("rule", lambda prompt, reply: float("nan") if prompt.id == "2" else 1.0)
    with pytest.raises(CheckError, match="about 1 of 4 replies, the first to prompt 2"):
        player(policy, (Weighed(rule),)).play(PROMPTS, seed=3, n=1)


def test_rewards_are_asked_in_evaluation_mode(policy):
    """Some live on the policy's backbone, which trained just before."""
    modes: list[bool] = []
    spy = Rule("spy", lambda prompt, reply: float(modes.append(policy.model.training) is None))
    actor = player(policy, (Weighed(spy),))
    actor.module.train()
    actor.play(PROMPTS, seed=3, n=1)
    assert modes == [False] * len(PROMPTS)


def test_a_sampler_that_draws_from_another_distribution_is_found_out(policy):
    """Trap 8: here it forgets the temperature."""
    wrong = player(policy, temperature=0.7)
    cold = SimpleNamespace(generate=lambda prompts, sampling, seed, progress: wrong.generator.generate(
        prompts, sampling.model_copy(update={"temperature": 1.0}), seed, progress
    ))  # fmt: skip
    with pytest.raises(TrainingError, match="sampling and training disagree about sampled tokens by"):
        dataclasses.replace(wrong, generator=cold).play(PROMPTS, seed=3, n=1)


def test_a_ratio_that_is_not_1_before_the_first_update_is_found_out(policy):
    """Trap 8: dropout while training, or another temperature; the weights stay as they were."""
    actor = player(policy)
    turns = actor.play(PROMPTS, seed=3, n=2)
    trees = credit().assign([t.tree for t in turns], np.array([t.scores for t in turns]), 0.05)
    train = learner(actor.module)
    before = policy.model.model.layers[0].mlp.up_proj.weight.clone()
    with pytest.raises(TrainingError, match=r"probability ratio is .* away from 1"):
        train.update(objective(temperature=0.7), trees)
    assert torch.equal(before, policy.model.model.layers[0].mlp.up_proj.weight)
    metrics = train.update(objective(), trees)
    assert metrics["ratio"] == pytest.approx(1, abs=1e-4) and metrics["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["clip_fraction"] == 0
    train.update(objective(on_policy=None), trees)


def exact_kl(policy, turns) -> float:
    """KL to the reference, summed over the vocabulary, averaged over the states that the policy came through."""
    batch = collate([turn.tree for turn in turns])
    total = []
    with torch.no_grad():
        weights = [m.get_output_embeddings().weight for m in (policy.model, policy.other)]
        logps = [
            torch.nn.functional.linear(LanguageModel(m).before(batch), w).log_softmax(-1)
            for m, w in zip((policy.model, policy.other), weights, strict=True)
        ]
        total = (logps[0].exp() * (logps[0] - logps[1])).sum(-1)
    return float(total.mean())


@pytest.mark.parametrize(
    ("where", "estimator", "advantage"),
    [("reward", "k1", "rloo"), ("reward", "k1", "gae"), ("loss", "k2", "rloo"), ("loss", "k3", "grpo")],
)
def test_a_price_of_kl_alone_lowers_kl(policy, where, estimator, advantage):
    """Trap 22: the right sign, wherever it stands. Nothing else is rewarded."""
    kl = Kl(where=where, estimator=estimator)
    head = value_head(16) if advantage == "gae" else None
    actor = player(policy, head=head)
    assigned, train = credit(advantage, where=where, estimator=estimator), learner(actor.module, lr=1e-2)
    found = []
    for step in range(10):
        turns = actor.play(PROMPTS, seed=step, n=16)
        found.append(exact_kl(policy, turns))
        trees = assigned.assign([t.tree for t in turns], np.zeros((len(PROMPTS), 16)), 1.0)
        for i in range(2):
            term = (kl.estimator, 1.0 if where == "loss" else 0.0)
            train.update(objective(kl=term, on_policy=1e-3 if i == 0 else None), trees)
    assert np.mean(found[-2:]) < 0.95 * found[0], found


@pytest.mark.parametrize("shared", [True, False], ids=["critic", "no critic"])
def test_a_step_does_not_depend_on_how_it_is_cut(policy, shared):
    """Trap 20 for this loss, with a term of every kind."""
    head = value_head(16) if shared else None
    if head is not None:
        torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    actor = player(policy, head=head)
    turns = actor.play(PROMPTS, seed=3, n=2)
    scores = np.array([t.scores for t in turns])
    made = Credit("gae" if shared else "rloo", Gae(**{"lambda": 0.9}), Kl(where="loss", estimator="k3"), False, True)
    trees = made.assign([t.tree for t in turns], scores, 0.1)
    gradients = []
    for size in (256, 16):
        train = learner(actor.module, machine=Machine(device="cpu", max_tokens=size))
        train.module.zero_grad(set_to_none=True)
        losses = train.backward(objective(kl=("k3", 0.1), entropy=0.01), trees)
        assert (len(losses) == 1) == (size == 256)
        gradients.append({name: p.grad.clone() for name, p in train.trainable.items()})
        train.module.zero_grad(set_to_none=True)
    scale = max(g.abs().max() for g in gradients[0].values())
    assert all((gradients[0][name] - gradients[1][name]).abs().max() < 1e-5 * scale for name in gradients[0])
    assert len(tokens(trees, "advantage")) == sum(len(c.ids) for t in turns for c in t.completions)


@pytest.mark.parametrize("max_tokens", [256, 16])
def test_demonstrations_beside_add_their_mean_loss_times_the_coefficient(policy, max_tokens):
    """Eq. 2 of arXiv:2203.02155, against transformers' own loss; nothing was earned, so the rest of the step is 0."""
    actor = player(policy)
    turns = actor.play(PROMPTS, seed=3, n=2)
    trees = credit().assign([t.tree for t in turns], np.zeros((len(PROMPTS), 2)), 0.0)
    rows = [torch.randint(3, 200, (n,), generator=torch.Generator().manual_seed(n)) for n in (9, 14)]
    shown = [Tree(str(n), row[:4].int().numpy(), (Reply(row[4:].int().numpy()),)) for n, row in enumerate(rows)]
    labels = [torch.cat([torch.full((4,), -100), row[4:]]) for row in rows]
    pairs = zip(rows, labels, strict=True)
    sums = [policy.model(row[None], labels=label[None]).loss * (len(row) - 4) for row, label in pairs]
    expected = 0.7 * sum(sums) / (5 + 10)
    gradients = torch.autograd.grad(expected, list(policy.model.parameters()))
    norm = torch.stack([g.norm() for g in gradients]).norm()
    train = learner(actor.module, machine=Machine(device="cpu", max_tokens=max_tokens))
    scored = sum(len(c.ids) for t in turns for c in t.completions)
    metrics = train.update(objective(), trees, (demonstrated(0.7 * scored / 15), shown))
    assert metrics["loss"] == pytest.approx(float(expected), rel=1e-4)
    assert metrics["ptx_loss"] == pytest.approx(float(expected) / 0.7, rel=1e-4)
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-3)
    assert metrics["ratio"] == pytest.approx(1, abs=1e-4)
