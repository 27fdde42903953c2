"""The same training by TRL's trainers: same weights, rows, order and optimizer.

Both sides get token ids, so neither is charged for tokenizing. TRL is charged for `train()` and for its pass over the
reference, not for the making of its trainer. Its packing is not tried: to keep texts apart it needs FlashAttention,
which no CPU has.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from align.bench.clock import Clock
from align.config import Optim
from align.data.tree import Tree

TASKS = ("sft", "reward_model", "dpo")
MICRO = (1, 2, 4, 16)
"""Examples of a micro-batch; the whole step at once is how TRL comes."""


@dataclass(frozen=True)
class Setting:
    """One way of TRL's to do the work."""

    micro: int
    precompute: bool = True
    """Of dpo: whether the reference runs once before training, or within each step."""

    def __str__(self) -> str:
        return f"micro-batch {self.micro}" + ("" if self.precompute else ", reference in each step")


def settings(task: str, batch: int) -> Iterator[Setting]:
    """All that are tried with steps of so many examples."""
    sizes = sorted({batch, *(size for size in MICRO if batch % size == 0)})
    for precompute, micro in product((True, False) if task == "dpo" else (True,), sizes):
        yield Setting(micro, precompute)


@dataclass(frozen=True)
class Trial:
    """What a trainer is made of."""

    task: str
    folder: Path
    """Weights and tokenizer; for a reward model those of a classifier."""
    trees: Sequence[Tree]
    """In the order of training."""
    optim: Optim
    max_length: int
    beta: float
    centering: float
    dtype: str = "float32"


def train(trial: Trial, setting: Setting, clock: Clock) -> list[float]:
    """Trains one pass over the rows; the loss of every step."""
    datasets.disable_caching()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as place:
        trainer = _TRAINERS[trial.task](trial, setting, clock, _arguments(place, trial, setting, clock.device))
        with clock.running():
            trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def _arguments(place: str, trial: Trial, setting: Setting, device: torch.device) -> dict[str, Any]:
    optim = trial.optim
    return {
        "output_dir": place, "per_device_train_batch_size": setting.micro,
        "gradient_accumulation_steps": optim.batch_size // setting.micro, "num_train_epochs": 1,
        "max_length": trial.max_length, "use_cpu": device.type == "cpu", "bf16": trial.dtype == "bfloat16",
        "gradient_checkpointing": False, "optim": "adamw_torch_fused", "learning_rate": optim.lr,
        "lr_scheduler_type": optim.schedule, "weight_decay": optim.weight_decay, "adam_beta1": optim.betas[0],
        "adam_beta2": optim.betas[1], "adam_epsilon": optim.eps, "max_grad_norm": optim.max_grad_norm,
        "train_sampling_strategy": "sequential", "dataloader_num_workers": 0, "dataloader_pin_memory": False,
        "logging_steps": 1, "disable_tqdm": True, "report_to": "none", "save_strategy": "no",
    }  # fmt: skip


class _TokenizedDPO(DPOTrainer):
    """TRL's DPO trainer on rows that are token ids already, its pass over the reference timed."""

    def __init__(self, clock: Clock, **given: Any):
        self.clock = clock
        super().__init__(**given)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return dataset

    def _precompute_ref_logps(self, *given: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        with self.clock.running():
            return super()._precompute_ref_logps(*given)


def _dpo(trial: Trial, setting: Setting, clock: Clock, arguments: dict[str, Any]) -> DPOTrainer:
    rows = [
        {"prompt_ids": tree.prompt.tolist(), "chosen_ids": chosen.ids.tolist(), "rejected_ids": rejected.ids.tolist()}
        for tree in trial.trees
        for chosen, rejected in [tree.replies]
    ]
    chosen = DPOConfig(**arguments, beta=trial.beta, precompute_ref_log_probs=setting.precompute)
    given = _given(trial, AutoModelForCausalLM)
    return _TokenizedDPO(clock, **given, args=chosen, train_dataset=datasets.Dataset.from_list(rows))


def _reward(trial: Trial, setting: Setting, clock: Clock, arguments: dict[str, Any]) -> RewardTrainer:
    rows = [
        {"chosen_ids": prompt + chosen.ids.tolist(), "rejected_ids": prompt + rejected.ids.tolist()}
        for tree in trial.trees
        for prompt, (chosen, rejected) in [(tree.prompt.tolist(), tree.replies)]
    ]
    chosen = RewardConfig(**arguments, center_rewards_coefficient=trial.centering)
    given = _given(trial, AutoModelForSequenceClassification)
    return RewardTrainer(**given, args=chosen, train_dataset=datasets.Dataset.from_list(rows))


def _sft(trial: Trial, setting: Setting, clock: Clock, arguments: dict[str, Any]) -> SFTTrainer:
    rows = [
        {"input_ids": prompt + reply, "labels": [-100] * len(prompt) + reply}
        for tree in trial.trees
        for prompt, reply in [(tree.prompt.tolist(), tree.replies[0].ids.tolist())]
    ]
    given = _given(trial, AutoModelForCausalLM)
    chosen = SFTConfig(**arguments, shuffle_dataset=False)
    return SFTTrainer(**given, args=chosen, train_dataset=datasets.Dataset.from_list(rows))


_TRAINERS = {"dpo": _dpo, "reward_model": _reward, "sft": _sft}


def _given(trial: Trial, kind: Any) -> dict[str, Any]:
    model = kind.from_pretrained(trial.folder, dtype=torch.float32)
    return {"model": model, "processing_class": AutoTokenizer.from_pretrained(trial.folder)}
