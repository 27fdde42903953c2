"""What a step computes, counted: tokens a useful token, projections a scored token, forward passes a pair, and no
more for further epochs or another beta; bytes of what is kept. No clock is asked, so no neighbour can disturb."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import LlamaForSequenceClassification

from align.config import Lora, Optim
from align.data.tree import Layout, Reply, Tree
from align.machine import Machine
from align.models.attention import VOCABULARY
from align.models.heads import load_reward
from align.models.logprobs import LanguageModel, Projection, RewardModel
from align.models.policy import load_policy
from align.stage import Context
from align.stages.dpo import DPO
from align.train.learner import Learner, accelerator
from align.train.objectives import Objective, bradley_terry, direct_preference, next_token
from tests.stages.test_training import ASKED, BAD, GOOD, OPTIM

NUMBERS = {"reference_chosen": -20.0, "reference_rejected": -21.0, "label": 1.0, "weight": 1.0, "margin": 0.0}


@pytest.fixture
def preferences(rows):
    asked = zip(ASKED, GOOD, BAD, strict=True)
    return rows("pairs", *({"prompt": p, "chosen": c, "rejected": r} for p, c, r in asked))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Tokens that an embedding looks up, and rows that are projected to the vocabulary."""
    counts: Counter[str] = Counter()

    def look(module: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Embedding):
            counts["tokens"] += given[0].numel()

    logits = Projection.logits

    def project(self: Projection, hidden: Tensor, *given: Any) -> Any:
        counts["projected"] += len(hidden)
        return logits(self, hidden, *given)

    monkeypatch.setattr(Projection, "logits", project)
    hook = register_module_forward_pre_hook(look)
    yield counts
    hook.remove()


def step(module: nn.Module, objective: Objective, trees: list[Tree], max_tokens: int, layout: Layout = "tree") -> None:
    machine = Machine(device="cpu", max_tokens=max_tokens)
    made = accelerator(machine)
    Learner(
        module, Optim(), lr=1e-2, steps=9, accelerator=made, machine=machine, layout=layout, pad=2
    ).update(objective, trees)  # fmt: skip


@pytest.mark.parametrize(
    ("task", "layout", "max_tokens", "tokens", "projected"),
    [
        # The four trees have 9 + 7 + 12 = 28, 3 + 2 + 1 = 6, 1 + 6 + 4 = 11 and 5 + 3 + 3 = 11 tokens: 56 in two rows
        # of 28, of which 7 + 12 + 2 + 1 + 6 + 4 + 3 + 3 = 38 are scored.
        ("dpo", "tree", 56, 56, 38),
        # 28, then a row of 28: the same in two micro-batches.
        ("dpo", "tree", 28, 56, 38),
        # Without trees, eight rows as long as the longest, 9 + 12.
        ("dpo", "plain", 1000, 8 * 21, 38),
        # Nothing is projected where scores are wanted.
        ("reward_model", "tree", 56, 56, 0),
        # First replies only: 16, 5, 7 and 8 tokens, in rows of 16, 8 + 7 and 5, of 16 each; 7 + 2 + 6 + 3 are scored.
        ("sft", "tree", 48, 48, 18),
        # Two rows of 18 hold 16 and 8 + 7 and end there; 5 come by themselves.
        ("sft", "tree", 36, 2 * 16 + 5, 18),
    ],
)
def test_a_step_computes_each_token_once_and_projects_what_is_scored(
    tiny: Callable[..., Any], pairs: list[Tree], counted: Counter[str], task: str, layout: Layout, max_tokens: int,
    tokens: int, projected: int,
) -> None:  # fmt: skip
    replies = 1 if task == "sft" else 2
    trees = [Tree(t.id, t.prompt, tuple(Reply(r.ids) for r in t.replies[:replies]), NUMBERS) for t in pairs]
    module: nn.Module = LanguageModel(tiny("llama"))
    if task == "reward_model":
        module = RewardModel(LlamaForSequenceClassification(tiny("llama", num_labels=1).config))
    objective = {"dpo": direct_preference("sigmoid", 0.1), "sft": next_token, "reward_model": bradley_terry(0.01)}[task]
    step(module, objective, trees, max_tokens, layout)
    assert counted == Counter({"tokens": tokens, "projected": projected})


def passes(stage: DPO, context: Callable[..., Context], given: dict[str, Any]) -> tuple[Counter[str], list[str]]:
    """How many pairs went through the policy with and without gradients, and what the stage told of its progress."""
    seen: Counter[str] = Counter()

    def look(module: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(module, LanguageModel) and module.model.config.vocab_size != VOCABULARY:  # the twin of the check
            seen["learning" if torch.is_grad_enabled() else "measuring"] += given[0].examples

    ctx = context(given)
    hook = register_module_forward_pre_hook(look)
    try:
        stage.run(ctx)
    finally:
        hook.remove()
    return seen, [event.get("what", event["event"]) for event in context.events]  # type: ignore[attr-defined]


def test_the_reference_speaks_once_however_many_epochs_and_betas(artifacts, context, preferences):
    """Four pairs, a step an epoch. Measured are the reference of each pair, once, and a probe of each before every
    training; learned from is each pair once an epoch, and once in the rehearsal where a second step follows."""
    given = {"tuned": artifacts["tuned"], "pairs": preferences}

    def sweep(beta: float, epochs: float) -> tuple[Counter[str], list[str]]:
        stage = DPO(policy="$tuned", data="$pairs", max_length=64, beta=beta, epochs=epochs, optim=OPTIM)
        return passes(stage, context, given)

    first, told = sweep(0.05, 1)
    assert first == {"measuring": 4 + 4, "learning": 4}
    assert told.count("reference log-probs") > 0 and told.count("step") == 1
    for beta, epochs, learning in ((0.1, 1, 4), (0.2, 1, 4), (0.4, 3, 3 * 4 + 4)):
        again, told = sweep(beta, epochs)
        assert again == {"measuring": 4, "learning": learning}
        assert "reference log-probs" not in told and told.count("step") == epochs


def test_an_artifact_holds_what_its_stage_trained_and_no_more(artifacts, tmp_path):
    """Rank 2 on two matrices of 32 x 32 in each of two layers, a head of 32, four bytes a number."""
    lora = Lora(r=2, targets=["q_proj", "v_proj"])
    load_policy(artifacts["base"], train=True, lora=lora).save(tmp_path / "policy", "sft")
    load_reward(artifacts["base"], train=True, lora=lora).save(tmp_path / "reward", "reward")
    adapter = 4 * 2 * 2 * (2 * 32 + 32 * 2)
    assert tensors(tmp_path / "policy") == {"adapter/adapter_model.safetensors": adapter}
    assert tensors(tmp_path / "reward") == {"adapter/adapter_model.safetensors": adapter, "head.safetensors": 4 * 32}


def tensors(folder: Path) -> dict[str, int]:
    """Bytes of all tensors in each file that could hold any."""
    files = [file for kind in ("safetensors", "bin", "pt", "npy") for file in folder.rglob(f"*.{kind}")]
    return {
        file.relative_to(folder).as_posix(): sum(value.nbytes for value in load_file(file).values()) for file in files
    }
