"""Who takes part when a policy learns from its own replies: policy, critic, rewards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from align.config import Model
from align.errors import CheckError, ContractError
from align.models.contract import Contract
from align.models.critic import ActorCritic, trainable_critic, value_head
from align.models.heads import load_reward
from align.models.loaded import is_adapted
from align.models.logprobs import LanguageModel
from align.models.policy import Policy
from align.models.preview import preview
from align.models.shared import CRITIC, adapted_critic, beneath_on, lodge
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
    sources = starts(ctx, stage, policy.contract, critic)
    if policy.own is not None:
        for name, source in sources:
            below = beneath_on(policy, source, ctx.store) if isinstance(source, Artifact) else None
            if isinstance(source, Artifact) and below is not None:
                ctx.note(f"the critic starts from reward {name!r}, on the policy's backbone")
                return ActorCritic(actor, lodge(policy, source, below, CRITIC).module)
        if critic.start != "reward":
            ctx.note("the critic starts from the policy, on its backbone")
            return ActorCritic(actor, adapted_critic(policy, ctx.seed_of("critic")))
    name, start = sources[0] if sources else (None, ctx.checkpoint(stage.policy))
    options: Any = {"base": ctx.base, "store": ctx.store, "device": str(device_of(ctx.machine))}
    if name is None and is_adapted(start, ctx.base):
        options["adapter"] = "merge-first"
    loaded = load_reward(start, train=name is None, **options)
    ctx.note(f"the critic starts from {'the policy' if name is None else f'reward {name!r}'}")
    return ActorCritic(actor, trainable_critic(loaded, fresh=name is None))


def starts(ctx: Context, stage: Online, contract: Contract, critic: Value) -> list[tuple[str, Artifact | Model]]:
    """The reward models that a critic may start from, for they make the policy's tokens; in a check, what those that
    are yet to be made descend from. Raises ContractError where one is asked for in vain."""
    if critic.start in ("policy", "shared"):
        return []
    found, apart = [], []
    for name, source in _trained(ctx, stage, outside=critic.start == "reward"):
        here = isinstance(source, Artifact)
        theirs = Contract.read(source.path) if here else preview(source, ctx.base, ctx.store).contract
        differences = theirs.agreement(contract)
        if any(line.startswith(("tokenizer", "bos")) for line in differences):
            apart += differences
        else:
            found.append((name, source))
    foreseen = all(ctx.knows(part.source) for part in parts(stage.reward) if isinstance(part.source, Reference))
    if critic.start == "reward" and foreseen and not found:
        raise ContractError(
            f"value.start: no trained reward shares the policy's tokens: {'; '.join(apart) or 'there is none'}. Write "
            "policy, or shared"
        )
    return found


def _trained(ctx: Context, stage: Online, outside: bool) -> Iterator[tuple[str, Artifact | Model]]:
    """The reward models of a stage; with `outside` those too that no stage made."""
    for part in parts(stage.reward):
        if not isinstance(part.source, Reference):
            if outside and part.source.model is not None:
                yield part.source.name, part.source.model
        elif ctx.knows(part.source):
            yield part.source.name, ctx.forerunner(part.source)
