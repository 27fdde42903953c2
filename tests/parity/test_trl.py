"""Our losses and gradients against those of TRL's stable trainers: same weights, same rows, as TRL collates them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn

from align.data.tree import Layout, Reply, Tree, collate
from align.losses import language, preference
from align.losses.reduce import lengths, per_reply, per_token
from align.models.logprobs import LanguageModel, RewardModel

BETA = 0.3
ROWS = [
    {"prompt": "Say hello.", "chosen": " Hello there, friend!", "rejected": " No."},
    {"prompt": "One plus one?", "chosen": " Two.", "rejected": " Three, or maybe even four."},
    {"prompt": "Hm", "chosen": " Yes?", "rejected": " What?"},
]


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": len(ROWS),
        "max_length": 64,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "gradient_checkpointing": False,
    }


def only_batch(trainer: Any) -> dict[str, Tensor]:
    (batch,) = trainer.get_train_dataloader()
    return batch


def rows(batch: dict[str, Tensor], mask: str | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(prompt, reply) of each of TRL's padded rows; without a completion mask the prompt is the first token."""
    for i, ids in enumerate(batch["input_ids"].numpy().astype(np.int32)):
        real = batch["attention_mask"][i].bool().numpy()
        start = int(batch[mask][i].int().argmax()) if mask else 1
        yield ids[:start], ids[start : real.sum()]


def trees(batch: dict[str, Tensor], mask: str | None) -> list[Tree]:
    """TRL's rows, all chosen before all rejected, as trees."""
    made = list(rows(batch, mask))
    half = len(made) // 2
    found = []
    for i, ((prompt, chosen), (other, rejected)) in enumerate(zip(made[:half], made[half:], strict=True)):
        assert np.array_equal(prompt, other)
        found.append(Tree(str(i), prompt, (Reply(chosen), Reply(rejected))))
    return found


def assert_same(model: nn.Module, ours: Tensor, theirs: Tensor) -> None:
    """Equal losses, and equal gradients of every parameter."""
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    parameters = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(theirs, parameters, retain_graph=True)
    found = torch.autograd.grad(ours, parameters)
    scale = max(g.abs().max().item() for g in wanted)
    assert scale > 1e-3
    for name, a, b in zip(names, found, wanted, strict=True):
        assert (a - b).abs().max() < 1e-4 * scale, name


@pytest.mark.parametrize("layout", ["tree", "plain"])
@pytest.mark.parametrize(("loss", "smoothing"), [("sigmoid", 0.0), ("robust", 0.1), ("hinge", 0.0), ("ipo", 0.0)])
def test_dpo_family(
    tiny: Callable[..., Any], byte_tokenizer: Any, options: dict[str, Any], loss: str, smoothing: float, layout: Layout
) -> None:
    from trl import DPOConfig, DPOTrainer

    policy, reference = tiny("llama", seed=0), tiny("llama", seed=1)
    arguments = DPOConfig(**options, beta=BETA, loss_type=[loss], label_smoothing=smoothing)
    trainer = DPOTrainer(
        policy, reference, arguments, train_dataset=Dataset.from_list(ROWS), processing_class=byte_tokenizer
    )
    theirs_batch = only_batch(trainer)
    theirs = trainer.compute_loss(policy, theirs_batch)

    batch = collate(trees(theirs_batch, "completion_mask"), layout)
    with torch.no_grad():
        before = LanguageModel(reference)(batch).logp
    replies = len(batch.last)
    ratios = per_reply(LanguageModel(policy)(batch).logp - before, batch.owner, replies)
    chosen, rejected = ratios.view(-1, 2).unbind(1)
    if loss == "ipo":
        chosen, rejected = per_token(ratios, lengths(batch.owner, replies)).view(-1, 2).unbind(1)
    ours = {
        "sigmoid": lambda: preference.dpo(chosen, rejected, BETA),
        "robust": lambda: preference.robust_dpo(chosen, rejected, BETA, smoothing),
        "hinge": lambda: preference.hinge(chosen, rejected, BETA),
        "ipo": lambda: preference.ipo(chosen, rejected, BETA),
    }[loss]()
    assert_same(policy, ours.mean(), theirs)


@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_sft(tiny: Callable[..., Any], byte_tokenizer: Any, options: dict[str, Any], layout: Layout) -> None:
    from trl import SFTConfig, SFTTrainer

    policy = tiny("qwen2")
    data = Dataset.from_list([{"prompt": r["prompt"], "completion": r["chosen"]} for r in ROWS])
    trainer = SFTTrainer(policy, SFTConfig(**options), train_dataset=data, processing_class=byte_tokenizer)
    theirs_batch = only_batch(trainer)
    theirs = trainer.compute_loss(policy, dict(theirs_batch))

    labels = theirs_batch["labels"].numpy()
    made = []
    for i, ids in enumerate(theirs_batch["input_ids"].numpy().astype(np.int32)):
        scored = np.flatnonzero(labels[i] != -100)
        made.append(Tree(str(i), ids[: scored[0]], (Reply(ids[scored[0] : scored[-1] + 1]),)))
    assert_same(policy, language.nll(LanguageModel(policy)(collate(made, layout)).logp).mean(), theirs)


@pytest.mark.parametrize("layout", ["tree", "plain"])
@pytest.mark.parametrize("centering", [None, 0.1])
def test_reward(
    tiny: Callable[..., Any], byte_tokenizer: Any, options: dict[str, Any], centering: float | None, layout: Layout
) -> None:
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    config = tiny("llama").config
    config.num_labels, config.pad_token_id = 1, byte_tokenizer.pad_token_id
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    margins = [0.0, 0.5, 1.0]
    data = Dataset.from_list([
        {"chosen": r["prompt"] + r["chosen"], "rejected": r["prompt"] + r["rejected"], "margin": m}
        for r, m in zip(ROWS, margins, strict=True)
    ])  # fmt: skip
    arguments = RewardConfig(**options, center_rewards_coefficient=centering, disable_dropout=True)
    trainer = RewardTrainer(model, arguments, train_dataset=data, processing_class=byte_tokenizer)
    theirs_batch = only_batch(trainer)
    theirs = trainer.compute_loss(model, dict(theirs_batch))

    chosen, rejected = RewardModel(model)(collate(trees(theirs_batch, None), layout)).view(-1, 2).unbind(1)
    ours = preference.bradley_terry(chosen, rejected, theirs_batch["margin"])
    if centering:
        ours = ours + centering * preference.centering(chosen, rejected)
    assert_same(model, ours.mean(), theirs)
