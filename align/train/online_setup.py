"""From an online stage's fields to who plays and who learns, and what is checked before either does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from align.data import read
from align.data.chat import Chat
from align.data.tokens import trees
from align.data.tree import Tree
from align.errors import CheckError
from align.evals.evaluate import questions
from align.evals.fitting import fitting, readers
from align.generate.load import generator_of
from align.models.adapters import Adapters
from align.models.attention import layout_for
from align.models.heads import check_scorable
from align.models.loaded import check_handover
from align.models.logprobs import RewardModel
from align.models.preview import preview
from align.models.shared import train_only
from align.records import Demonstration, Prompt
from align.rewards.base import RewardSpec, names
from align.stage import Context, Reference, RewardRef
from align.store import Artifact
from align.train.actors import actor_critic, starts, weighed
from align.train.batching import token_budget
from align.train.learner import Learner, accelerator
from align.train.memory import memory_of
from align.train.online_fields import Online, Value, parts
from align.train.rollout import Player
from align.train.session import trainable_policy, without_dropout


def preflight(ctx: Context, stage: Online, critic: Value | None) -> dict[str, Any]:
    """Figures for people. Raises AlignError for whatever would make the result untrustworthy: a useless reward model,
    one that calls no score better, prompts without room for a reply, fewer prompts than a step answers."""
    if stage.policy.name in ctx.inputs:
        check_handover(ctx.checkpoint(stage.policy), stage.lora, stage.adapter, ctx.base)
    seen = preview(ctx.forerunner(stage.policy), ctx.base, ctx.store)
    if seen.contract.dtype == "float16":
        raise CheckError("policy: float16 is too narrow to compare the log-probs of two policies; load it in bfloat16")
    whole = critic if critic and critic.start != "shared" and not (stage.lora or stage.adapter == "continue") else None
    if whole and not starts(ctx, stage, seen.contract, whole):
        check_scorable(seen.model.config)
    check_rewards(ctx, stage)
    for part in parts(stage.reward, stage.watch):
        if not isinstance(part.source, Reference) and part.source.model is None:
            weighed(ctx, part)
    names([part.source for part in parts(stage.reward, stage.watch)])
    prompts, held_out = asked(ctx, stage)
    if len(prompts) < stage.prompts_per_step:
        raise CheckError(
            f"a step answers {stage.prompts_per_step} prompts (optim.batch_size x minibatches), but there are only "
            f"{len(prompts)}; make one of the two smaller, or give more prompts"
        )
    adapted = stage.adapter == "continue"
    memory = memory_of(ctx, stage, seen, critic)
    saved = seen.saved_bytes(stage.lora, adapted, stage.checkpoint.keep + 1)
    # Weights to go back to: as they are, as the newest checkpoint knows them, and as they are about to be.
    trusted = 12 * memory.trained if stage.hacking.then == "stop" else 0
    shown = demonstrations(ctx, stage, seen.chat, seen.model.config)
    return {
        "prompts": len(prompts),
        "held out": len(held_out),
        **({"demonstrations": len(shown)} if shown else {}),
        "replies per step": stage.prompts_per_step * stage.sampling.n,
        "steps": stage.steps,
        "updates": stage.steps * stage.updates_per_step,
        "parameters": seen.parameters,
        "memory bytes": memory.total,
        **{f"{name} bytes": size for name, size in memory.parts().items()},
        "bytes": saved + 12 * memory.critic_numbers * (stage.checkpoint.keep + 1) + trusted,
    }


def asked(ctx: Context, stage: Online) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts to train on and those held out, each once, but those that leave the policy, or a reward model that
    reads what it writes, no room for a whole reply, which are counted."""
    reading = readers(ctx, [stage.policy], [part.source for part in parts(stage.reward, stage.watch)])

    def fit(field: Any) -> list[Prompt]:
        kept, said = fitting(questions(ctx, field), reading, stage.sampling.max_new_tokens, stage.max_too_long)
        if said:
            ctx.note(said)
        return kept

    prompts, held_out = fit(stage.prompts), fit(stage.held_out.prompts) if stage.held_out else []
    if both := {prompt.prompt for prompt in prompts} & {prompt.prompt for prompt in held_out}:
        ctx.note(f"{len(both)} of {len(held_out)} held-out prompts are trained on too", "warning")
    return prompts, held_out


def demonstrations(ctx: Context, stage: Online, chat: Chat, config: Any) -> list[Tree]:
    """The demonstrations of `ptx`, as trees; those that are too long are left out and counted."""
    if stage.ptx is None:
        return []
    context = getattr(config.get_text_config(), "max_position_embeddings", None) or stage.ptx.max_length
    records = read(ctx, stage.ptx.data, Demonstration)
    made, account = trees(
        records, chat, min(stage.ptx.max_length, context), limit=stage.max_too_long, store=ctx.store
    )  # fmt: skip
    if account.reasons:
        ctx.note(f"demonstrations: {account}")
    if len(made) < stage.optim.batch_size:
        raise CheckError(
            f"ptx.data: an update learns from {stage.optim.batch_size} demonstrations (optim.batch_size), but there "
            f"are only {len(made)}"
        )
    return made


def check_rewards(ctx: Context, stage: Online) -> None:
    """Refuses trained reward models that are not known to be better than a ruler; those yet to be made pass."""
    for source in (leaf for part in parts(stage.reward) for leaf in _leaves(part.source)):
        if not isinstance(source, Reference):
            if source.model is not None:
                ctx.note(f"reward {source.name!r} comes from outside: nothing here says how good it is", "warning")
        elif isinstance(made := ctx.inputs.get(source.name), Artifact):
            _check_tested(ctx, stage, source.name, made.metrics)


def _leaves(source: RewardRef | RewardSpec) -> Iterator[RewardRef | RewardSpec]:
    """The reward, or what an ensemble is made of."""
    if isinstance(source, RewardSpec) and source.ensemble is not None:
        for member in source.ensemble.members:
            yield from _leaves(member)
    else:
        yield source


def _check_tested(ctx: Context, stage: Online, name: str, found: Mapping[str, float]) -> None:
    if "test_accuracy" not in found:
        doubt = "was not tested; give its stage `test:`, pairs that it has not seen"
    elif not (found["test_accuracy"] > found["length_accuracy"] and found["length_p"] < 0.05):
        doubt = (
            f"is right on {found['test_accuracy']:.1%} of {found['test_pairs']:.0f} held-out pairs, a rule that knows "
            f"lengths only on {found['length_accuracy']:.1%} (p = {found['length_p']:.2g})"
        )
    else:
        ctx.note(
            f"reward {name!r} is right on {found['test_accuracy']:.1%} of held-out pairs; its correlation with length "
            f"is {found['length_correlation']:+.2f}"
        )
        return
    if stage.doubtful_reward == "refuse":
        raise CheckError(f"reward {name!r} {doubt}. To train on it all the same, set doubtful_reward: allow")
    ctx.note(f"reward {name!r} {doubt}", "warning")


def setting(ctx: Context, stage: Online, critic: Value | None) -> tuple[Player, list[Prompt], list[Prompt]]:
    """Who plays, loaded, and the prompts to train on and those held out."""
    check_rewards(ctx, stage)
    policy = trainable_policy(ctx, stage, stage.policy)
    config = policy.model.config
    prompts, held_out = asked(ctx, stage)
    module = actor_critic(ctx, stage, policy, critic)
    rewards = [weighed(ctx, part, policy) for part in parts(stage.reward, stage.watch)]
    train_only(policy, module.critic)
    without_dropout(module)
    if ctx.machine.checkpointing:
        policy.adapters.save_memory()
        if isinstance(module.critic, RewardModel):
            Adapters(module.critic.model).save_memory()
    longest = max(len(policy.chat.prompt(prompt.prompt)) for prompt in prompts)
    layout, reason = layout_for(
        config, config._attn_implementation, longest + stage.sampling.n * stage.sampling.max_new_tokens
    )
    if layout == "plain":
        ctx.note(reason)
    accelerate = accelerator(ctx.machine, policy.contract.dtype, ctx.work)
    player = Player(
        policy,
        module,
        generator_of(policy, ctx.machine),
        rewards,
        stage.sampling,
        stage.missing_eos_penalty,
        accelerate,
        layout,
        token_budget(ctx.machine, accelerate.device),
    )
    return player, prompts, held_out


def learner_of(ctx: Context, stage: Online, player: Player, rates: Mapping[str, float | None]) -> Learner:
    """What makes the updates. rates: learning rates of parts of the module by a component of their names."""
    return Learner(
        player.module,
        stage.optim,
        lr=stage.rate(),
        steps=stage.steps * stage.updates_per_step,
        accelerator=player.accelerator,
        machine=ctx.machine,
        layout=player.layout,
        pad=player.policy.contract.pad,
        seed=ctx.seed_of("train"),
        rates={part: rate or stage.rate() for part, rate in rates.items()},
    )
