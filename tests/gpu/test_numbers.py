"""A GPU computes what the CPU does: log-probs of trees, and one optimizer step of each kind of loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from torch import nn

from align.config import Optim
from align.data.tree import Reply, Tree, collate
from align.machine import Machine
from align.models.attention import prefer_flex
from align.models.compiled import compile_layers
from align.models.critic import ActorCritic, value_head
from align.models.logprobs import LanguageModel
from align.train.learner import Learner, accelerator
from align.train.objectives import Objective, direct_preference, next_token, proximal_policy

TOLERANCE = 1e-4
DPO = {"reference_chosen": -20.0, "reference_rejected": -21.0, "label": 1.0, "weight": 1.0}
PPO = {"logp": -5.0, "advantage": 1.0, "value": 0.1, "return": 0.5}


@pytest.fixture(autouse=True)
def own_device() -> Iterator[None]:
    """Accelerate knows one device a process; here it learns another."""
    yield
    PartialState._reset_state()


def rows(count: int, replies: int, each: dict[str, float], token: dict[str, float]) -> list[Tree]:
    draw = np.random.default_rng(0)

    def ids(n: int) -> np.ndarray:
        return draw.integers(3, 300, n).astype(np.int32)

    def reply() -> Reply:
        size = int(draw.integers(2, 12))
        return Reply(ids(size), numbers={name: np.full(size, value, np.float32) for name, value in token.items()})

    return [Tree(str(i), ids(4 + i), tuple(reply() for _ in range(replies)), dict(each)) for i in range(count)]


def logps(model: Any, trees: list[Tree]) -> torch.Tensor:
    with torch.no_grad():
        return LanguageModel(model)(collate(trees).to(model.device)).logp.cpu()


def stepped(
    module: nn.Module, objective: Objective, trees: list[Tree], device: str, dtype: str = "float32"
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Metrics of one step on a device, and the weights after it."""
    PartialState._reset_state()
    machine = Machine(device=device, max_tokens=64)  # type: ignore[arg-type]
    # A large epsilon: where Adam divides a tiny gradient by itself, its sign is all that rounding leaves
    optim = Optim(schedule="constant", warmup=0.0, eps=1e-2)
    learner = Learner(
        module.to(device), optim, lr=1e-2, steps=9, accelerator=accelerator(machine, dtype), machine=machine
    )
    metrics = learner.update(objective, trees)
    return metrics, {name: p.detach().cpu().clone() for name, p in learner.trainable.items()}


def ppo(on_policy: float | None = None) -> Objective:
    return proximal_policy(
        clip=0.2, temperature=1.0, entropy=0.01, kl=("k1", 0.0), value=(0.5, 0.2), on_policy=on_policy
    )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_log_probs_of_trees_are_those_of_the_cpu(tiny: Callable[..., Any], pairs: list[Tree], family: str) -> None:
    model = tiny(family)
    expected = logps(model, pairs)
    torch.testing.assert_close(logps(model.cuda(), pairs), expected, atol=TOLERANCE, rtol=0)


def test_log_probs_by_flex_attention_are_those_by_dense_masks(tiny: Callable[..., Any], pairs: list[Tree]) -> None:
    model = tiny("llama", hidden_size=64, head_dim=16).cuda()
    expected = logps(model, pairs)
    assert prefer_flex(model, "cuda", 64)
    torch.testing.assert_close(logps(model, pairs), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("flex", [False, True])
def test_log_probs_of_compiled_layers_are_those_of_the_model(
    tiny: Callable[..., Any], pairs: list[Tree], flex: bool
) -> None:
    model = tiny("llama", hidden_size=64, head_dim=16).cuda()
    expected = logps(model, pairs)
    assert not flex or prefer_flex(model, "cuda", 64)
    assert compile_layers(model) == 2
    for trees in (pairs, pairs[:1]):
        torch.testing.assert_close(logps(model, trees), expected[: len(logps(model, trees))], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("objective", "trees"),
    [
        (next_token, rows(6, 1, {}, {})),
        (direct_preference("sigmoid", 0.1), rows(6, 2, DPO, {})),
        (ppo(), rows(6, 2, {}, PPO)),
    ],
    ids=["sft", "dpo", "ppo"],
)
def test_a_step_is_that_of_the_cpu(tiny: Callable[..., Any], objective: Objective, trees: list[Tree]) -> None:
    def module() -> nn.Module:
        actor = LanguageModel(tiny("llama"))
        return ActorCritic(actor, critic_head=value_head(32)) if "logp" in trees[0].replies[0].numbers else actor

    expected, weights = stepped(module(), objective, trees, "cpu")
    found, moved = stepped(module(), objective, trees, "cuda")
    assert found == pytest.approx(expected, abs=TOLERANCE, rel=1e-3)
    for name in weights:
        torch.testing.assert_close(moved[name], weights[name], atol=TOLERANCE, rtol=0)


def test_ratios_are_near_1_in_bfloat16(tiny: Callable[..., Any]) -> None:
    """What one micro-batch measured, others find again to the tolerance that rollouts are held to."""
    from align.train.measure import with_token_numbers
    from align.train.online import ON_POLICY

    module = ActorCritic(LanguageModel(tiny("llama")), critic_head=value_head(32)).cuda()
    trees = with_token_numbers(
        lambda batch: {"logp": module(batch, 1.0, False)[0]}, rows(6, 2, {}, PPO), layout="tree", pad=0,
        max_tokens=4096, device=torch.device("cuda"), dtype="bfloat16",
    )  # fmt: skip
    metrics, _ = stepped(module, ppo(ON_POLICY["bfloat16"]), trees, "cuda", "bfloat16")
    assert metrics["ratio"] == pytest.approx(1, abs=0.05)
