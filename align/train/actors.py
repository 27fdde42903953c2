"""Who takes part when a policy learns from its own replies: policy, critic, rewards; and how much memory they take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.config import Model
from align.errors import CheckError, ContractError
from align.models.contract import Contract
from align.models.critic import ActorCritic, trainable_critic, value_head
from align.models.heads import load_reward
from align.models.loaded import is_adapted, located
from align.models.logprobs import LanguageModel
from align.models.policy import Policy
from align.models.preview import BYTES, Preview, preview
from align.models.shared import CRITIC, adapted_critic, beneath, beneath_on, lodge
from align.models.weights import SIZES, headers
from align.rewards.base import load
from align.rewards.model import TrainedReward
from align.stage import Context, Reference
from align.store import Artifact
from align.train.batching import token_budget
from align.train.online_fields import Online, RewardPart, Value, parts
from align.train.rollout import Weighed
from align.train.session import device_of


def weighed(ctx: Context, part: RewardPart, policy: Policy | None = None) -> Weighed:
    """A part of the reward, ready to score: on the policy's backbone where it is an adapter on the same weights."""
    reward = _lodger(ctx, part.source, policy) or load(part.source, ctx)
    if reward.better is None:
        raise CheckError(f"reward {reward.name!r} calls no score better; write `better: higher` or `better: lower`")
    return Weighed(reward, part.weight, part.clip)


def _lodger(ctx: Context, source: Any, policy: Policy | None) -> TrainedReward | None:
    artifact = ctx[source] if isinstance(source, Reference) else None
    if policy is None or not isinstance(artifact, Artifact):
        return None
    below = beneath_on(policy, artifact, ctx.store)
    if below is None:
        return None
    lodger = lodge(policy, artifact, below, f"reward-{artifact.key}")
    return TrainedReward(lodger, source.name, token_budget(ctx.machine, policy.model.device), ctx.note)


def actor_critic(ctx: Context, stage: Online, policy: Policy, critic: Value | None) -> ActorCritic:
    """The policy and its critic, if there is to be one."""
    actor = LanguageModel(policy.model)
    if critic is None:
        return ActorCritic(actor)
    if critic.start == "shared":
        projection: Any = policy.model.get_output_embeddings()
        head = value_head(projection.weight.shape[1])
        return ActorCritic(actor, critic_head=head.to(device_of(ctx.machine)))
    sources = [] if critic.start == "policy" else _rewards_that_read_alike(ctx, stage, policy, critic)
    if policy.own is not None:
        for source, artifact in sources:
            below = beneath_on(policy, artifact, ctx.store)
            if below is not None:
                ctx.note(f"the critic starts from reward {source!r}, on the policy's backbone")
                return ActorCritic(actor, lodge(policy, artifact, below, CRITIC).module)
        if critic.start != "reward":
            ctx.note("the critic starts from the policy, on its backbone")
            return ActorCritic(actor, adapted_critic(policy, ctx.seed_of("critic")))
    name, start = sources[0] if sources else (None, ctx.checkpoint(stage.policy))
    options: Any = {"base": ctx.base, "store": ctx.store, "device": str(device_of(ctx.machine))}
    if name is None and is_adapted(start, ctx.base):
        options["adapter"] = "merge-first"
    loaded = load_reward(start, train=name is None, **options)  # type: ignore[arg-type]
    ctx.note(f"the critic starts from {'the policy' if name is None else f'reward {name!r}'}")
    return ActorCritic(actor, trainable_critic(loaded, fresh=name is None))


def _rewards_that_read_alike(
    ctx: Context, stage: Online, policy: Policy, critic: Value
) -> list[tuple[str, Artifact]]:
    """The trained rewards with the policy's own tokens. Raises ContractError if one is asked for in vain."""
    found, apart = [], []
    for name, artifact in _trained(ctx, parts(stage.reward)):
        differences = Contract.read(artifact.path).agreement(policy.contract)
        if any(line.startswith(("tokenizer", "bos")) for line in differences):
            apart += differences
        else:
            found.append((name, artifact))
    if critic.start == "reward" and not found:
        raise ContractError(f"value.start: no trained reward shares the policy's tokens: {'; '.join(apart) or 'none'}")
    return found


def _trained(ctx: Context, wanted: list[RewardPart]) -> Iterator[tuple[str, Artifact]]:
    """Names and artifacts of the trained rewards that are there."""
    for part in wanted:
        found = ctx.inputs.get(part.source.name) if isinstance(part.source, Reference) else None
        if isinstance(found, Artifact):
            yield part.source.name, found


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
    own = seen.adapter_parameters(stage.lora) if stage.lora else seen.adapter if adapts else 0
    apart = critic is not None and critic.start != "shared"
    kept, lodged, others = 0 if stage.adapter == "merge-first" else seen.adapter, 0, 0
    for source in [part.source for part in parts(stage.reward, stage.watch)]:
        alone, shared = _reward_bytes(ctx, stage, source, adapts)
        others, lodged = others + alone, lodged + shared
    if not adapts:
        critics = seen.parameters if apart else 0
        return Memory(
            4 * seen.parameters, 4 * critics, width * seen.parameters, others, 0, seen.parameters + critics, critics
        )
    start = critic.start if critic else None
    copied = None if start in ("policy", "shared") else _copied(ctx, stage)
    whole = start == "reward" and copied is None
    critics = (seen.parameters if whole else own if copied is None else copied) if apart else 0
    return Memory(
        width * seen.parameters, 4 * critics if whole else 0, 0, others,
        4 * (own + kept + lodged + (0 if whole else critics)), own + critics, critics,
    )  # fmt: skip


def _copied(ctx: Context, stage: Online) -> int | None:
    """Numbers of the adapter that a critic on the policy's backbone starts from; None where no reward model has one."""
    found = (artifact for _, artifact in _trained(ctx, parts(stage.reward)) if _shares(ctx, stage, artifact))
    return next((_stored(artifact.path / "adapter")[0] for artifact in found), None)


def _shares(ctx: Context, stage: Online, reward: Artifact) -> bool:
    """Whether a reward model is an adapter on the weights that the policy will have beneath its own."""
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


def _reward_bytes(ctx: Context, stage: Online, source: Any, adapts: bool) -> tuple[int, int]:
    """Bytes of a reward's own weights, and numbers of its adapter where it lives on the policy's."""
    found = ctx.inputs.get(source.name) if isinstance(source, Reference) else source.model
    if isinstance(found, Artifact):
        if adapts and _shares(ctx, stage, found):
            return 0, _stored(found.path / "adapter")[0]
        if (found.path / "model").is_dir():
            return _stored(found.path / "model")[1], 0
        seen = preview(found, ctx.base, ctx.store)
        return BYTES[seen.contract.dtype] * seen.parameters + 4 * seen.adapter, 0
    if isinstance(found, Model) and (folder := Path(located(found, ctx.base).path)).is_dir():
        return _stored(folder)[1], 0
    return 0, 0


def _stored(folder: Path) -> tuple[int, int]:
    """Numbers and bytes in the safetensors files of a folder."""
    sizes = [(math.prod(tensor["shape"]), SIZES[tensor["dtype"]]) for tensor in headers(folder).values()]
    return sum(count for count, _ in sizes), sum(count * size for count, size in sizes)
