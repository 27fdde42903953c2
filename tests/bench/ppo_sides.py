"""The same PPO twice, by align and by TRL 1.12: models, prompts, algorithm, optimizer. `ppo_against_trl.py` times it.

Both sample 64 tokens to each of a step's 64 prompts and learn from them in four epochs of one update. Nothing about the
replies can be equal but their number and length, for the two draw from different random streams. Neither is charged for
loading models and making tokens of prompts; align is charged for the rehearsal of its longest micro-batch.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from measuring import Row, Stopwatch, peak
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer

from align.config import Data
from align.machine import Machine
from align.stage import Context
from align.stages.ppo import PPO
from align.store import Artifact, Store

BATCH, NEW, EPOCHS, LR = 64, 64, 4, 3e-6
KL, LAMBDA, CLIP, VALUE = 0.05, 0.95, 0.2, 0.1
BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Work:
    """What to train on."""

    folder: Path
    """Holds `policy` and `reward`, artifacts, and `prompts.jsonl`, rows of messages."""
    ids: tuple[list[int], ...]
    """The same prompts as tokens; a multiple of `BATCH`."""


@dataclass(frozen=True)
class Setting:
    """One way to do the work."""

    side: str
    """`align` or `trl`."""
    micro: int
    """align: tokens of a micro-batch. trl: rows of one, while learning."""
    rollout: int = 64
    """Rows side by side while sampling; of trl also while scoring."""
    critic: str = "reward"
    """align: where the critic comes from."""

    def __str__(self) -> str:
        if self.side == "align":
            return f"align, {'critic on the policy' if self.critic == 'shared' else 'separate critic'}"
        return f"TRL, micro-batch {self.micro}, rollout {self.rollout}"


def measure(work: Work, batch: int, setting: Setting) -> Row:
    """Does the work in this process, which must be a fresh one: seconds, replies, their tokens, and memory in MB."""
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    before = peak()
    watch, tokens = (ours if setting.side == "align" else theirs)(work, batch, setting)
    return {
        "episodes": len(work.ids), "tokens": tokens, "cpu": watch.cpu, "wall": watch.wall, "start_bytes": before,
        "peak_bytes": peak(),
    }  # fmt: skip


def ours(work: Work, batch: int, setting: Setting) -> tuple[Stopwatch, float]:
    """The stage, from its first rollout to its last update, without loading and saving."""
    from align.train.credit import Credit
    from align.train.online import Loop
    from align.train.online_setup import learner_of
    from align.train.online_setup import setting as loaded

    optim = {"lr": LR, "batch_size": batch, "schedule": "constant", "warmup": 0.0, "betas": BETAS}
    stage = PPO.model_validate({
        "policy": "$policy", "reward": "$reward", "prompts": "$prompts", "doubtful_reward": "allow", "max_too_long": 0,
        "steps": len(work.ids) // batch, "minibatches": 1, "epochs": EPOCHS, "clip": CLIP, "kl": {"coefficient": KL},
        "gae": {"lambda": LAMBDA}, "value": {"start": setting.critic, "coefficient": VALUE, "clip": CLIP},
        "sampling": {"max_new_tokens": NEW}, "optim": optim, "show": 10**6,
    })  # fmt: skip
    watch, tokens = Stopwatch(), []

    def emit(event: str, **values: Any) -> None:
        if event == "step":
            tokens.append(values["tokens"])

    with tempfile.TemporaryDirectory() as place:
        ctx = _context(work, Path(place), setting, emit)
        credit = Credit(stage.advantage, stage.gae, stage.kl, whiten_rewards=False, whiten_advantages=True)
        player, prompts, _ = loaded(ctx, stage, stage.value)
        learner = learner_of(ctx, stage, player, {"critic": None, "critic_head": None})
        loop = Loop(ctx, stage, learner, player, credit, stage._objective, prompts, held_out=())
        with watch.running():
            loop.run()
    return watch, sum(tokens) / len(tokens)


def _context(work: Work, place: Path, setting: Setting, emit: Any) -> Context:
    for name in ("work", "out"):
        (place / name).mkdir()
    machine = Machine(device="cpu", max_tokens=setting.micro, sample_batch=setting.rollout, threads=1)
    inputs = {
        "policy": Artifact("policy", "policy", work.folder / "policy"),
        "reward": Artifact("reward", "reward", work.folder / "reward"),
        "prompts": Data(path=str(work.folder / "prompts.jsonl")),
    }  # fmt: skip
    return Context(
        "bench", "ppo", "bench", 0, inputs=inputs, keys={name: name for name in inputs}, store=Store(place / "store"),
        machine=machine, work=place / "work", out=place / "out", emit=emit, base=place,
    )  # fmt: skip


def theirs(work: Work, batch: int, setting: Setting) -> tuple[Stopwatch, float]:
    """TRL's trainer, float32, no recomputation, fused AdamW."""
    policy, reference = (_model(work, "policy", AutoModelForCausalLM) for _ in range(2))
    reward, value = (_model(work, "reward", AutoModelForSequenceClassification) for _ in range(2))
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as place:
        arguments = PPOConfig(
            output_dir=place, per_device_train_batch_size=setting.micro,
            gradient_accumulation_steps=batch // setting.micro, local_rollout_forward_batch_size=setting.rollout,
            num_mini_batches=1, num_ppo_epochs=EPOCHS, total_episodes=len(work.ids), response_length=NEW,
            temperature=1.0, stop_token="eos", kl_coef=KL, lam=LAMBDA, cliprange=CLIP, cliprange_value=CLIP,
            vf_coef=VALUE, learning_rate=LR, lr_scheduler_type="constant", optim="adamw_torch_fused",
            adam_beta1=BETAS[0], adam_beta2=BETAS[1], use_cpu=True, bf16=False, gradient_checkpointing=False,
            num_sample_generations=0, save_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        trainer = PPOTrainer(
            args=arguments, processing_class=AutoTokenizer.from_pretrained(work.folder / "policy/model"), model=policy,
            ref_model=reference, reward_model=reward, value_model=value,
            train_dataset=datasets.Dataset.from_list([{"input_ids": ids} for ids in work.ids]),
        )  # fmt: skip
        with watch.running():
            trainer.train()
    return watch, float(NEW)


def _model(work: Work, name: str, kind: Any) -> Any:
    return kind.from_pretrained(work.folder / name / "model", dtype=torch.float32)


def write_prompts(folder: Path, prompts: list[Any]) -> None:
    rows = [{"prompt": [{"role": turn.role, "content": turn.content} for turn in prompt]} for prompt in prompts]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
