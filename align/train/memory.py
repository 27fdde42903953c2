"""How much memory a stage that learns from its own replies will take, told before any weights are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.config import Model
from align.models.contract import Contract
from align.models.loaded import located
from align.models.preview import BYTES, Preview, preview
from align.models.shared import beneath
from align.models.weights import SIZES, headers
from align.rewards.base import RewardSpec
from align.stage import Context, Reference
from align.store import Artifact
from align.train.actors import starts
from align.train.online_fields import Online, Value, parts


@dataclass(frozen=True)
class Memory:
    """What the parts of a stage take, in bytes, activations and what is cached while replies are drawn not counted."""

    policy: int
    critic: int
    reference: int
    rewards: int
    """Weights of their own; 0 for a part that lives on the policy's."""
    adapters: int
    trained: int
    """Numbers that train: a gradient and two moments, 12 bytes, to each."""
    critic_numbers: int
    """Those of them that are the critic's."""

    @property
    def total(self) -> int:
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Bytes by name; what is not there is left out."""
        made = {
            "policy": self.policy, "critic": self.critic, "reference": self.reference, "reward": self.rewards,
            "adapter": self.adapters, "optimizer": 12 * self.trained,
        }  # fmt: skip
        return {name: size for name, size in made.items() if size}


def memory_of(ctx: Context, stage: Online, seen: Preview, critic: Value | None) -> Memory:
    """What a stage will take. Rewards that are yet to be made count nothing."""
    width, adapts = BYTES[seen.contract.dtype], stage.lora is not None or stage.adapter == "continue"
    others, lodged = 0, 0
    for source in [part.source for part in parts(stage.reward, stage.watch)]:
        alone, shared = _reward(ctx, stage, source, adapts)
        others, lodged = others + alone, lodged + shared
    apart = critic if critic is not None and critic.start != "shared" else None
    if not adapts:
        critics = _critic(ctx, stage, seen, apart) if apart else 0
        return Memory(
            4 * seen.parameters, 4 * critics, width * seen.parameters, others, 0, seen.parameters + critics, critics
        )
    own = seen.adapter_parameters(stage.lora) if stage.lora else seen.adapter
    kept = 0 if stage.adapter == "merge-first" else seen.adapter
    copied = _copied(ctx, stage, seen, apart) if apart else 0
    whole = apart is not None and apart.start == "reward" and copied is None
    critics = _critic(ctx, stage, seen, apart) if apart and whole else own if copied is None else copied
    return Memory(
        width * seen.parameters, 4 * critics if whole else 0, 0, others,
        4 * (own + kept + lodged + (0 if whole else critics)), own + critics, critics,
    )  # fmt: skip


def _critic(ctx: Context, stage: Online, seen: Preview, critic: Value) -> int:
    """Numbers of a critic that is a model of its own."""
    for _, source in starts(ctx, stage, seen.contract, critic):
        if isinstance(source, Artifact) and (source.path / "model").is_dir() and source.kind == "reward":
            return _stored(source.path / "model")[0]
        return preview(source, ctx.base, ctx.store).scoring_parameters
    return seen.scoring_parameters


def _copied(ctx: Context, stage: Online, seen: Preview, critic: Value) -> int | None:
    """Numbers of the adapter that a critic on the policy's backbone starts from; None where no reward model has one."""
    for _, source in starts(ctx, stage, seen.contract, critic):
        if isinstance(source, Artifact) and _shares(ctx, stage, source):
            return _stored(source.path / "adapter")[0]
    return None


def _shares(ctx: Context, stage: Online, reward: Artifact) -> bool:
    """Whether a reward model is an adapter on the weights that the policy will have beneath its own."""
    if reward.kind != "reward":  # what it will descend from
        return False
    source = ctx.forerunner(stage.policy)
    named, hashes = _named(source, ctx.base), ()
    if isinstance(source, Artifact) and stage.adapter != "merge-first":
        hashes = Contract.read(source.path).adapters
    if stage.adapter == "merge-first":
        named = {**named, "merge": True}
    return beneath(named, dict(zip(hashes, hashes, strict=True)), reward, ctx.store) is not None


def _named(source: Artifact | Model, base: Path) -> dict[str, Any]:
    if isinstance(source, Artifact):
        return {"artifact": source.key}
    return {"model": located(source, base).model_dump(exclude_defaults=True)}


def _reward(ctx: Context, stage: Online, source: Any, adapts: bool) -> tuple[int, int]:
    """Bytes of a reward's own weights, and numbers of its adapter where it lives on the policy's."""
    if isinstance(source, RewardSpec) and source.ensemble is not None:
        return sum(_reward(ctx, stage, one, False)[0] for one in source.ensemble.members), 0
    found = ctx.inputs.get(source.name) if isinstance(source, Reference) else source.model
    if not isinstance(found, Artifact | Model):
        return 0, 0
    if isinstance(found, Artifact) and adapts and _shares(ctx, stage, found):
        return 0, _stored(found.path / "adapter")[0]
    folder = found.path / "model" if isinstance(found, Artifact) else Path(located(found, ctx.base).path)
    if folder.is_dir():
        return _stored(folder)[1], 0
    seen = preview(found, ctx.base, ctx.store)
    return BYTES[seen.contract.dtype] * seen.scoring_parameters + 4 * seen.adapter, 0


def _stored(folder: Path) -> tuple[int, int]:
    """Numbers and bytes in the safetensors files of a folder."""
    sizes = [(math.prod(tensor["shape"]), SIZES[tensor["dtype"]]) for tensor in headers(folder).values()]
    return sum(count for count, _ in sizes), sum(count * size for count, size in sizes)
