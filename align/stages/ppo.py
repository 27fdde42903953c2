"""Reinforcement learning from a reward: PPO, and its relatives that need no critic."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from align.config import Lora, Optim, Sampling
from align.data.fields import DataField
from align.stage import Context, PolicyRef, Stage
from align.train.fields import Checkpoint
from align.train.online_fields import Advantage, Gae, HeldOut, Kl, RewardSum, Value

GROUPED = ("rloo", "grpo")
"""Ways to an advantage that compare the replies to one prompt."""


class PPO(Stage):
    """Proximal policy optimization (arXiv:1707.06347; for language models arXiv:2203.02155): the policy answers
    prompts, a reward scores the answers, and tokens that did better than expected become likelier.

    Each step draws new replies and makes `epochs` times `minibatches` updates on them. The reference is the policy as
    this stage finds it.
    """

    name = "ppo"
    makes = "policy"
    distributed = True
    unkeyed = frozenset({"checkpoint", "show"})
    usual_lr = 1e-6

    policy: PolicyRef
    """The model to tune; also the reference."""
    reward: RewardSum
    """What to raise: a `$reward`, a name or a block, or a list of them, each perhaps with a weight."""
    prompts: DataField
    """What is answered; records of any kind but raw text have prompts."""
    held_out: HeldOut | None = None
    """Prompts to judge the policy on, before and after."""
    steps: int = Field(100, gt=0)
    """How often new replies are drawn and learned from."""
    sampling: Sampling = Sampling()
    """How replies are drawn; `n` of them to a prompt."""
    advantage: Advantage = "gae"
    """How much better than expected a token was: by a critic (`gae`); by the other replies to its prompt (`rloo`
    arXiv:2402.14740, `grpo` arXiv:2402.03300); by all other tokens (`reinforce++` arXiv:2501.03262)."""
    gae: Gae = Gae()  # pyright: ignore[reportCallIssue]
    """Discounts of advantage: gae; `reinforce++` uses gamma alone."""
    value: Value = Value()
    """The critic of advantage: gae."""
    kl: Kl = Kl()
    """The price of leaving the reference."""
    clip: float = Field(0.2, gt=0, lt=1)
    """How far the probability of a token may move, as a share of what it was, before it counts no further."""
    epochs: int = Field(4, gt=0)
    """How often each reply is learned from."""
    minibatches: int = Field(4, gt=0)
    """Updates of an epoch. A step answers `minibatches` times `optim.batch_size` prompts."""
    stop_kl: float | None = Field(None, gt=0)
    """Leave out the rest of a step's updates once the policy has moved so far from the one that sampled, in nats per
    token."""
    entropy: float = Field(0.0, ge=0)
    """Weight of the entropy bonus in the loss."""
    missing_eos_penalty: float = Field(0.0, ge=0)
    """Taken from the score of a reply that did not stop by itself."""
    whiten_rewards: bool = False
    """Divide rewards by their standard deviation over the step's tokens; for advantage: gae."""
    whiten_advantages: bool | None = None
    """Bring advantages to mean 0 and variance 1 over the step's tokens; none means for gae and reinforce++."""
    doubtful_reward: Literal["refuse", "allow"] = "refuse"
    """Whether to train on a reward model that was not tested, or is no better on held-out pairs than a rule that knows
    lengths only."""
    max_too_long: float = Field(0.1, ge=0, le=1)
    """The share of prompts that may leave no room for `max_new_tokens` and are left out; more is an error."""
    optim: Optim = Optim()
    """The optimizer; `batch_size` counts prompts."""
    lora: Lora | None = None
    """Train a low-rank adapter instead of all weights."""
    adapter: Literal["new", "continue", "merge-first"] = "new"
    """What becomes of the adapters the policy arrives with: a new one on top, the last one goes on training, or they
    are merged into the weights first."""
    checkpoint: Checkpoint = Checkpoint()
    """How often training can be gone on with after a kill; `every` counts steps."""
    show: int = Field(10, gt=0)
    """Keep some replies in words, in `samples/`, every so many steps."""

    @model_validator(mode="after")
    def _samples_are_what_is_scored(self) -> PPO:
        if self.sampling.top_p != 1 or self.sampling.top_k:
            raise ValueError("sampling: top_p and top_k draw from another distribution than the one that is trained")
        if not self.sampling.temperature:
            raise ValueError("sampling: temperature 0 tries nothing out; it must be above 0")
        if self.advantage in GROUPED and self.sampling.n < 2:
            raise ValueError(f"advantage: {self.advantage} compares replies to one prompt; set sampling.n to 2 or more")
        return self

    @model_validator(mode="after")
    def _nothing_inert(self) -> PPO:
        if self.advantage != "gae":
            for name in ("value", "whiten_rewards", *(("gae",) if self.advantage in GROUPED else ())):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect with advantage: {self.advantage}")
        if self.advantage == "reinforce++" and self.whiten_advantages is False:
            raise ValueError("advantage: reinforce++ without whitened advantages has no baseline")
        if self.lora and self.lora.dropout:
            raise ValueError("lora.dropout must be 0 in ppo: scores with dropout cannot be compared")
        return self

    def rate(self) -> float:
        """The peak learning rate."""
        if self.optim.lr is not None:
            return self.optim.lr
        return self.usual_lr * (10 if self.lora is not None or self.adapter == "continue" else 1)

    def check(self, ctx: Context) -> dict[str, Any]:
        from align.train.ppo import preflight

        return preflight(ctx, self)

    def run(self, ctx: Context) -> dict[str, float]:
        from align.train.ppo import train

        return train(ctx, self)
