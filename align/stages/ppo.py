"""Reinforcement learning from a reward: PPO, and its relatives that need no critic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from align.stage import Context
from align.train.online_fields import GROUPED, Advantage, Gae, Online, Value

if TYPE_CHECKING:
    from align.train.objectives import Objective


class PPO(Online):
    """Proximal policy optimization (arXiv:1707.06347; for language models arXiv:2203.02155): the policy answers
    prompts, a reward scores the answers, and tokens that did better than expected become likelier.

    Each step draws new replies and makes `epochs` times `minibatches` updates on them.
    """

    name = "ppo"
    version = 2
    usual_lr = 1e-6

    advantage: Advantage = "gae"
    """How much better than expected a token was: by a critic (`gae`); by the other replies to its prompt (`rloo`
    arXiv:2402.14740, `grpo` arXiv:2402.03300); by all other tokens (`reinforce++` arXiv:2501.03262)."""
    gae: Gae = Gae()  # pyright: ignore[reportCallIssue]
    """Discounts of advantage: gae; `reinforce++` uses gamma alone."""
    value: Value = Value()
    """The critic of advantage: gae."""
    clip: float = Field(0.2, gt=0, lt=1)
    """How far the probability of a token may move, as a share of what it was, before it counts no further."""
    whiten_rewards: bool = False
    """Bring rewards to variance 1 over the step's tokens and leave their mean as it is; for advantage: gae."""
    whiten_advantages: bool | None = None
    """Bring advantages to mean 0 and variance 1 over the step's tokens; none means for gae and reinforce++."""

    @model_validator(mode="after")
    def _consistent(self) -> PPO:
        grouped = self.advantage in GROUPED
        if grouped and self.sampling.n < 2:
            raise ValueError(f"advantage: {self.advantage} compares replies to one prompt; set sampling.n to 2 or more")
        inert = ("value", "whiten_rewards", "gae") if grouped else ("value", "whiten_rewards")
        for name in inert if self.advantage != "gae" else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with advantage: {self.advantage}")
        if self.advantage == "reinforce++" and self.gae.decay != Gae.model_fields["decay"].default:
            raise ValueError("gae: lambda has no effect with advantage: reinforce++, which uses gamma alone")
        scaled = {"grpo": True, "rloo": self.whiten_advantages, "reinforce++": self.gae.gamma == 1}
        priced = self.kl.where == "reward" and self.kl.coefficient
        if self.normalize_rewards and scaled.get(self.advantage) and not priced:
            raise ValueError(
                f"normalize_rewards has no effect with advantage: {self.advantage}, which scales by itself, unless KL "
                "is taken from the reward"
            )
        if self.advantage == "reinforce++" and self.whiten_advantages is False:
            raise ValueError("advantage: reinforce++ is whitened: that is its baseline")
        return self

    def check(self, ctx: Context) -> dict[str, Any]:
        from align.train.online_setup import preflight

        return preflight(ctx, self, critic=self.value if self.advantage == "gae" else None)

    def run(self, ctx: Context) -> dict[str, float]:
        from align.train.credit import Credit
        from align.train.online import Loop
        from align.train.online_setup import demonstrations, learner_of, setting

        whiten = self.whiten_advantages
        credit = Credit(
            self.advantage, self.gae, self.kl, self.whiten_rewards,
            self.advantage not in GROUPED if whiten is None else whiten,
        )  # fmt: skip
        player, prompts, held_out = setting(ctx, self, critic=self.value if self.advantage == "gae" else None)
        learner = learner_of(ctx, self, player, {"critic": self.value.lr, "critic_head": self.value.lr})
        shown = demonstrations(ctx, self, player.policy.chat, player.policy.model.config)
        return Loop(ctx, self, learner, player, credit, self._objective, prompts, held_out, shown).run()

    def _objective(self, coefficient: float, on_policy: float | None) -> Objective:
        from align.train.objectives import proximal_policy

        return proximal_policy(
            clip=self.clip, temperature=self.sampling.temperature, entropy=self.entropy,
            kl=(self.kl.estimator, coefficient if self.kl.where == "loss" else 0.0),
            value=(self.value.coefficient, self.value.clip), on_policy=on_policy,
        )  # fmt: skip
