"""The same training twice, by align and by TRL: same weights, rows, order and optimizer. `against_trl.py` times it.

Both get token ids, so neither is charged for tokenizing. align is charged for its session: reference log-probs, the
loop, the rehearsal of the longest micro-batch. TRL is charged for `train()` and for its pass over the reference, not
for the making of its trainer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from measuring import Stopwatch, peak
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from align.config import Model, Optim
from align.data.tree import Tree
from align.machine import Machine
from align.models.heads import load_reward
from align.models.logprobs import LanguageModel
from align.models.policy import load_policy
from align.stage import Context
from align.stages.dpo import DPO
from align.stages.reward_model import RewardModel
from align.stages.sft import SFT
from align.store import Store
from align.train.fit import rows_of
from align.train.objectives import bradley_terry, direct_preference, next_token
from align.train.session import Session

BATCH, LENGTH, BETA, CENTERING = 16, 1024, 0.1, 0.01
OPTIM = Optim(lr=1e-4, batch_size=BATCH, schedule="constant", warmup=0.0)
TASKS = ("dpo", "reward", "sft")


@dataclass(frozen=True)
class Work:
    """What to train on."""

    task: str
    folder: Path
    """Weights and tokenizer; for a reward model those of a classifier."""
    trees: Sequence[Tree]
    """In the order in which both sides see them."""


@dataclass(frozen=True)
class Setting:
    """One way to do the work."""

    side: str
    """`align` or `trl`."""
    micro: int
    """align: tokens of a micro-batch. trl: examples of a micro-batch."""
    precompute: bool = True
    """trl's dpo: whether the reference runs once before training, or within each step."""

    def __str__(self) -> str:
        if self.side == "align":
            return f"align, micro-batches of {self.micro:,} tokens"
        return f"TRL, micro-batch {self.micro}" + ("" if self.precompute else ", reference in each step")


class Clock(Stopwatch):
    """Seconds between start and stop, and the loss of each optimizer step."""

    def __init__(self) -> None:
        self.losses: list[float] = []


def measure(work: Work, setting: Setting) -> dict[str, Any]:
    """Does the work in this process, which must be a fresh one: seconds, losses of the steps, and memory in MB."""
    torch.set_num_threads(1)
    datasets.disable_caching()
    datasets.disable_progress_bars()
    before = peak()
    clock = (ours if setting.side == "align" else theirs)(work, setting)
    return {
        "pairs": len(work.trees), "cpu": clock.cpu, "wall": clock.wall, "losses": clock.losses,
        "start_mb": before, "peak_mb": peak(),
    }  # fmt: skip


def ours(work: Work, setting: Setting) -> Clock:
    """The session of our stage, without reading its data and saving its model."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as place:
        ctx = _context(Path(place), setting, clock)
        source = Model(path=str(work.folder), template="plain")
        references = {"policy": "$policy", "data": "$pairs", "optim": OPTIM, "max_length": LENGTH}
        if work.task == "reward":
            loaded = load_reward(source, train=True)
            stage, objective, module = RewardModel(**references), bradley_terry(CENTERING), loaded.module
        else:
            loaded = load_policy(source, train=True)
            stage = DPO(**references, beta=BETA) if work.task == "dpo" else SFT(**references)
            objective = direct_preference("sigmoid", BETA, 0.0, 0.0) if work.task == "dpo" else next_token
            module = LanguageModel(loaded.model)
        rows = _before_shuffling(work.trees, ctx.seed_of("order"))
        session = Session(ctx, stage, loaded, trees=rows, held_out=(), test=(), layout="tree")
        with clock.running():
            if work.task == "dpo":
                session = session.with_reference(loaded, "bench")
            session.train(module, objective)
    return clock


def _before_shuffling(trees: Sequence[Tree], seed: int) -> list[Tree]:
    """The trees so that the loop, which has an order of its own, comes to them in the order given."""
    order = [row for step in range(len(trees) // BATCH) for row in rows_of(step, len(trees), BATCH, seed)]
    return [tree for _, tree in sorted(zip(order, trees, strict=True), key=lambda pair: pair[0])]


def _context(place: Path, setting: Setting, clock: Clock) -> Context:
    def emit(event: str, **values: Any) -> None:
        if event == "step":
            clock.losses.append(values["loss"])

    work = place / "work"
    work.mkdir()
    machine = Machine(device="cpu", max_tokens=setting.micro, threads=1)
    return Context(
        "bench", "bench", "bench", 0, inputs={}, keys={}, store=Store(place / "store"), machine=machine, work=work,
        out=place / "out", emit=emit,
    )  # fmt: skip


def theirs(work: Work, setting: Setting) -> Clock:
    """TRL's trainer for the task, float32, no recomputation, fused AdamW, rows in the order given."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as place:
        trainer = _TRAINERS[work.task](work, setting, clock, _arguments(place, setting))
        with clock.running():
            trainer.train()
    clock.losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return clock


def _arguments(place: str, setting: Setting) -> dict[str, Any]:
    return {
        "output_dir": place, "per_device_train_batch_size": setting.micro,
        "gradient_accumulation_steps": BATCH // setting.micro, "num_train_epochs": 1, "max_length": LENGTH,
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "optim": "adamw_torch_fused",
        "learning_rate": OPTIM.lr, "lr_scheduler_type": OPTIM.schedule, "weight_decay": OPTIM.weight_decay,
        "adam_beta1": OPTIM.betas[0], "adam_beta2": OPTIM.betas[1], "adam_epsilon": OPTIM.eps,
        "max_grad_norm": OPTIM.max_grad_norm,
        "train_sampling_strategy": "sequential", "dataloader_num_workers": 0, "dataloader_pin_memory": False,
        "logging_steps": 1, "disable_tqdm": True, "report_to": "none", "save_strategy": "no",
    }  # fmt: skip


class _TokenizedDPO(DPOTrainer):
    """TRL's DPO trainer on rows that are token ids already, its pass over the reference timed."""

    def __init__(self, clock: Clock, **given: Any):
        self.clock = clock
        super().__init__(**given)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, *given: Any) -> Any:
        with self.clock.running():
            return super()._precompute_ref_logps(*given)


def _dpo(work: Work, setting: Setting, clock: Clock, arguments: dict[str, Any]) -> DPOTrainer:
    rows = [
        {"prompt_ids": tree.prompt.tolist(), "chosen_ids": chosen.ids.tolist(), "rejected_ids": rejected.ids.tolist()}
        for tree in work.trees
        for chosen, rejected in [tree.replies]
    ]
    chosen = DPOConfig(**arguments, beta=BETA, precompute_ref_log_probs=setting.precompute)
    return _TokenizedDPO(
        clock, **_given(work, AutoModelForCausalLM), args=chosen, train_dataset=datasets.Dataset.from_list(rows)
    )


def _reward(work: Work, setting: Setting, clock: Clock, arguments: dict[str, Any]) -> RewardTrainer:
    rows = [
        {"chosen_ids": prompt + chosen.ids.tolist(), "rejected_ids": prompt + rejected.ids.tolist()}
        for tree in work.trees
        for prompt, (chosen, rejected) in [(tree.prompt.tolist(), tree.replies)]
    ]
    chosen = RewardConfig(**arguments, center_rewards_coefficient=CENTERING)
    model = _given(work, AutoModelForSequenceClassification)
    return RewardTrainer(**model, args=chosen, train_dataset=datasets.Dataset.from_list(rows))


def _sft(work: Work, setting: Setting, clock: Clock, arguments: dict[str, Any]) -> SFTTrainer:
    rows = [
        {"input_ids": prompt + reply, "labels": [-100] * len(prompt) + reply}
        for tree in work.trees
        for prompt, reply in [(tree.prompt.tolist(), tree.replies[0].ids.tolist())]
    ]
    chosen = SFTConfig(**arguments, shuffle_dataset=False)
    return SFTTrainer(
        **_given(work, AutoModelForCausalLM), args=chosen, train_dataset=datasets.Dataset.from_list(rows)
    )


_TRAINERS = {"dpo": _dpo, "reward": _reward, "sft": _sft}


def _given(work: Work, kind: Any) -> dict[str, Any]:
    model = kind.from_pretrained(work.folder, dtype=torch.float32)
    return {"model": model, "processing_class": AutoTokenizer.from_pretrained(work.folder)}
