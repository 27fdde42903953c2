"""Policy, critic and reward model on one backbone compute and learn what models of their own would (trap 31)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from align.config import Lora
from align.data.tree import Reply, Tree, collate
from align.errors import ContractError
from align.models.critic import ActorCritic
from align.models.heads import load_reward
from align.models.logprobs import LanguageModel
from align.models.policy import load_policy
from align.models.shared import CRITIC, adapted_critic, beneath_on, lodge, train_only
from tests.models.conftest import numbers, rows, shake, trained


@pytest.fixture
def reward(store, keep, sft):
    """An adapter with other targets than the policy's, on the same stack."""
    lora = Lora(r=3, targets=("v_proj", "up_proj"))
    return keep(trained(load_reward(sft, store=store, train=True, lora=lora)), "reward", "reward", policy=sft)


@pytest.fixture
def policy(store, sft):
    """Makes the same policy again and again."""
    return lambda **options: trained(load_policy(sft, store=store, train=True, **{"lora": Lora(r=2)} | options), seed=3)


@pytest.fixture
def batch():
    trees = [Tree(str(i), np.array(row[:4], np.int32), (Reply(np.array(row[4:], np.int32)),)) for i, row in
             enumerate(rows(3))]  # fmt: skip
    return collate(trees)


def loss_of(logp: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return -logp.sum() / 7 + (values - 1).square().sum()


@pytest.mark.parametrize("start", ["reward", "policy"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_those_of_separate_models(start, checkpointing, store, sft, reward, policy, batch):
    """The policy computes, then the critic, then both go backward, with a reward model and the reference between."""
    one, alone = policy(), policy()
    if start == "reward":
        critic = lodge(one, reward, beneath_on(one, reward, store), CRITIC).module
        apart = load_reward(reward, store=store)
    else:
        critic = adapted_critic(one, seed=4)
        apart = load_reward(sft, store=store, train=True, lora=Lora(r=2), seed=4)
    judge = lodge(one, reward, beneath_on(one, reward, store), "judge")
    train_only(one, critic)
    own = apart.adapters.names[-1]
    apart.adapters.train(own)
    apart.score_head.float().requires_grad_(True)
    if start == "policy":
        for model, name in ((one, CRITIC), (apart, own)):  # the same training for both
            shake(((n, p) for n, p in model.model.named_parameters() if f".{name}." in n), seed=7)
        shake([("", critic.head.weight)], seed=8)
        apart.score_head.weight.data.copy_(critic.head.weight)
    module = ActorCritic(LanguageModel(one.model), critic)
    for model in (one, alone, apart):
        if checkpointing:
            model.adapters.save_memory()
        model.model.train()
    found = module(batch)
    with one.reference() as model:
        LanguageModel(model)(batch)
    judge.measure(rows(1)[0])
    loss_of(found.logp, found.values).backward()
    logp, values = LanguageModel(alone.model)(batch).logp, apart.module(batch, before=True)
    loss_of(logp, values).backward()
    torch.testing.assert_close(found.logp, logp)
    torch.testing.assert_close(found.values, values)
    expected = {name: p.grad for name, p in alone.trainable().items()}
    expected |= {
        name.replace(f".{own}.", f".{CRITIC}."): p.grad for name, p in apart.trainable().items() if "lora" in name
    }
    learned = {name: p.grad for name, p in one.trainable().items()}
    assert learned.keys() == expected.keys() and any(CRITIC in name for name in expected)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, f"{name}: a gradient of zero proves nothing"
        torch.testing.assert_close(learned[name], gradient, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(critic.head.weight.grad, apart.score_head.weight.grad)
    still = [p for name, p in one.model.named_parameters() if name not in expected]
    assert still and all(p.grad is None for p in still)


@pytest.mark.parametrize("options", [{}, {"lora": None, "adapter": "continue"}], ids=["new", "continue"])
def test_a_lodger_scores_as_it_would_alone_and_the_policy_does_not_notice(
    options, store, sft, reward, policy, recwarn
):  # fmt: skip
    """Also where the adapter that the two inherited goes on training: the reward keeps the one it was trained on."""
    made = policy(**options)
    before = numbers(made)
    judge = lodge(made, reward, beneath_on(made, reward, store), "judge")
    alone = load_reward(reward, store=store)
    for row in rows():
        assert judge.measure(row) == pytest.approx(alone.measure(row), abs=1e-5)
    assert numbers(made) == before and not [w for w in recwarn if "exclude_modules" in str(w.message)]
    assert sum(p.numel() for p in made.model.parameters()) < 1.2 * sum(
        p.numel() for p in load_policy(sft, store=store).model.parameters()
    )


def test_only_the_same_weights_are_shared(store, outside, keep, sft, reward, policy):
    """Neither a reward model of full weights, nor one on another model or another adapter, nor for a policy whose
    weights all train."""
    made = policy()
    assert beneath_on(made, reward, store) == ("adapter0",)
    base = outside()
    on_base = keep(trained(load_reward(base, store=store, train=True, lora=Lora(r=2))), "on-base", "reward")
    assert beneath_on(made, on_base, store) == ()
    other = keep(trained(load_reward(outside(seed=1), store=store, train=True, lora=Lora(r=2))), "other", "reward")
    assert beneath_on(made, other, store) is None
    second = keep(trained(load_policy(base, store=store, train=True, lora=Lora(r=4)), seed=9), "second")
    on_second = keep(trained(load_reward(second, store=store, train=True, lora=Lora(r=2))), "on-second", "reward")
    assert beneath_on(made, on_second, store) is None
    full = keep(trained(load_reward(base, store=store, train=True)), "full", "reward")
    assert beneath_on(made, full, store) is None
    assert beneath_on(policy(lora=None, adapter="merge-first"), reward, store) is None
    assert beneath_on(policy(adapter="merge-first"), reward, store) is None
    merged = load_reward(sft, store=store, train=True, lora=Lora(r=2), adapter="merge-first")
    on_merged = keep(trained(merged), "on-merged", "reward")
    assert beneath_on(policy(adapter="merge-first"), on_merged, store) == ()
    assert beneath_on(made, on_merged, store) is None


def test_a_lodger_that_lost_its_weights_is_noticed(store, reward, policy):
    """Trap 2: the numbers must be those that it was saved with."""
    made = policy()
    with pytest.raises(ContractError):
        lodge(made, reward, (), "judge")
