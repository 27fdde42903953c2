"""PPO, timed in its three parts: writing replies, scoring them, learning from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from align.bench.arithmetic import Lengths, Shape, useful
from align.bench.clock import Clock
from align.bench.timed import TimedGenerator
from align.config import Data, Model, Optim
from align.models.heads import load_reward
from align.records import Messages
from align.stage import Context
from align.stages.ppo import PPO
from align.store import Artifact
from align.train.credit import Credit
from align.train.online import Loop
from align.train.online_setup import learner_of, setting
from align.train.rollout import Player, Turn

EPOCHS, NEW_TOKENS = 4, 64
"""Passes over a step's replies, tokens of a reply."""


@dataclass(frozen=True)
class _TimedPlayer(Player):
    """A player with a clock around playing: writing and scoring."""

    clock: Clock

    def play(self, *given: Any, **more: Any) -> list[Turn]:
        with self.clock.running():
            return super().play(*given, **more)


def stage_of(prompts: int, batch: int) -> PPO:
    """PPO with a critic of its own that starts from the reward model, over so many prompts, `batch` of them a step."""
    return PPO.model_validate({
        "policy": "$policy", "reward": "$reward", "prompts": "$prompts", "doubtful_reward": "allow",
        "steps": max(1, prompts // batch), "minibatches": 1, "epochs": EPOCHS, "value": {"start": "reward"},
        "sampling": {"max_new_tokens": NEW_TOKENS}, "show": 10**6,
        "optim": Optim(lr=1e-5, batch_size=batch, schedule="constant", warmup=0.0),
    })  # fmt: skip


def inputs(source: Model, folder: Path, prompts: Sequence[Messages]) -> dict[str, Any]:
    """What the stage refers to: the policy, a reward model of its size, and the prompts as a file."""
    if not (folder / "reward").is_dir():
        load_reward(source, train=True).save(folder / "reward", "bench")
    rows = (json.dumps({"prompt": [m.row() for m in prompt]}) for prompt in prompts)
    (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    return {
        "policy": source,
        "reward": Artifact("reward", "reward", folder / "reward"),
        "prompts": Data(path=str(folder / "prompts.jsonl")),
    }


def reinforce(
    ctx: Context, stage: PPO, shape: Shape, clock: Clock
) -> tuple[list[Lengths], dict[str, tuple[float, int]]]:
    """Trains, timed; the rows that came of it, and (seconds, useful operations) of each part."""
    player, prompts, _ = setting(ctx, stage, stage.value)
    writing, playing = Clock(clock.device), Clock(clock.device)
    generator = TimedGenerator(player.generator, writing)
    own: dict[str, Any] = {f.name: getattr(player, f.name) for f in fields(Player)} | {"generator": generator}
    timed = _TimedPlayer(**own, clock=playing)
    learner = learner_of(ctx, stage, player, {"critic": None, "critic_head": None})
    credit = Credit(stage.advantage, stage.gae, stage.kl, whiten_rewards=False, whiten_advantages=True)
    loop = Loop(ctx, stage, learner, timed, credit, stage._objective, prompts, held_out=())
    with clock.running():
        loop.run()
    rows = [Lengths(len(generator.prompt(prompt)), (len(answer.ids),)) for prompt, answer in generator.written]
    seconds = {
        "ppo.rollout": writing.seconds,
        "ppo.scoring": playing.seconds - writing.seconds,
        "ppo.update": clock.seconds - playing.seconds,
    }
    return rows, {part: (taken, useful(part, shape, rows, EPOCHS)) for part, taken in seconds.items()}
