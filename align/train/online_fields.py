"""The blocks of a recipe that only training on a policy's own replies has. Knows no torch."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from align.config import Config, Lora, Optim, Sampling
from align.data.fields import DataField
from align.rewards.base import RewardField
from align.stage import PolicyRef, Stage
from align.train.fields import Checkpoint

Advantage = Literal["gae", "rloo", "grpo", "reinforce++"]
GROUPED = ("rloo", "grpo")
"""Ways to an advantage that compare the replies to one prompt."""


class Kl(Config):
    """What keeps the policy near the one that the stage began with."""

    coefficient: float = Field(default=0.05, ge=0)
    """Reward, or loss, that a nat costs."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """How a token's KL is estimated (http://joschu.net/blog/kl-approx.html): log-ratio, half its square, or the
    positive one."""
    where: Literal["reward", "loss"] = "reward"
    """Taken from each token's reward (arXiv:2203.02155), or added to the loss (GRPO, arXiv:2402.03300)."""
    target: float | None = Field(default=None, gt=0)
    """KL in nats per token to hold: the coefficient rises while there is more and falls while there is less
    (arXiv:1909.08593, section 2.2)."""

    @model_validator(mode="after")
    def _has_a_gradient(self) -> Kl:
        if self.where == "loss" and self.estimator == "k1":
            raise ValueError("estimator: k1 has no effect in the loss: its gradient is 0 on average. Write k2 or k3")
        if self.target and not self.coefficient:
            raise ValueError("target needs a coefficient above 0 to start from")
        return self


class Gae(Config):
    """Generalized advantage estimation (arXiv:1506.02438)."""

    gamma: float = Field(default=1.0, gt=0, le=1)
    """What a reward one token later counts."""
    decay: float = Field(default=0.95, ge=0, le=1, alias="lambda")
    """1 trusts sampled returns, 0 the critic."""


class Value(Config):
    """How the critic learns."""

    start: Literal["reward", "policy", "shared"] | None = None
    """A critic of its own that starts from the trained reward model or from the policy, or a head on what the policy
    itself computes (`shared`): less memory and time. None means the reward model that a stage made, where there is one
    with the policy's tokenizer, else the policy; one from outside has to be asked for. With an adapter the critic is
    one too, on the policy's weights; only a reward model with other weights, asked for by name, has to be a model of
    its own, and None passes it over."""
    lr: float | None = Field(default=None, gt=0)
    """Peak learning rate of the critic, or of the head; none means the policy's."""
    clip: float | None = Field(default=0.2, gt=0)
    """How far a value may move from the old one before its loss counts no further; none means as far as it likes."""
    coefficient: float = Field(default=0.1, gt=0)
    """What the critic's loss counts beside the policy's."""


class Ptx(Config):
    """Supervised learning beside reinforcement, so that the policy does not forget: PPO-ptx, eq. 2 of
    arXiv:2203.02155."""

    data: DataField
    """Demonstrations. Each update learns from as many of them as it does from prompts."""
    coefficient: float = Field(default=1.0, gt=0)
    """What their mean loss a token counts beside the policy's."""
    max_length: int = Field(default=1024, gt=1)
    """Tokens of a demonstration; longer ones are left out."""


class Hacking(Config):
    """When a reward that rises on held-out prompts is no longer believed. Something in `watch` that falls at the same
    time, each beyond its 95 % interval, is always a sign."""

    max_kl: float | None = Field(default=None, gt=0)
    """How far from the reference a policy may answer, in nats per token."""
    max_length_correlation: float | None = Field(default=None, gt=0, lt=1)
    """How closely the reward may go with the length of replies, whichever way."""
    then: Literal["warn", "stop"] = "warn"
    """`stop` ends training at the first examination that shows a sign, and goes back to the weights of the one before
    it."""


class RewardPart(Config):
    """One reward of several: `{from: $reward, weight: 0.5, clip: [-5, 5]}`. To a reply that it says nothing about it
    adds 0."""

    source: RewardField = Field(alias="from")
    """The reward: a `$reward`, a name or a block."""
    weight: float = 1.0
    """What it counts in the sum. Rewards of which lower is better are turned round first."""
    clip: tuple[float, float] | None = None
    """Lowest and highest score, before weighing."""

    @model_validator(mode="after")
    def _counts(self) -> RewardPart:
        if not self.weight:
            raise ValueError("weight: 0 trains on nothing; name the reward under `watch` to look at it alone")
        if self.clip and not self.clip[0] < self.clip[1]:
            raise ValueError("clip: the lowest score must be below the highest")
        return self


class HeldOut(Config):
    """Prompts that are not trained on, answered and scored before and after."""

    prompts: DataField
    """The prompts."""
    every: int | None = Field(default=None, gt=0)
    """Answer them also after so many steps."""


def _shape(value: Any) -> str:
    return "sum" if isinstance(value, (list, tuple)) else "one"


def _part_shape(value: Any) -> str:
    weighed = isinstance(value, RewardPart) or (isinstance(value, dict) and "from" in value)
    return "part" if weighed else "bare"


_Part = Annotated[Annotated[RewardField, Tag("bare")] | Annotated[RewardPart, Tag("part")], Discriminator(_part_shape)]
RewardSum = Annotated[
    Annotated[_Part, Tag("one")] | Annotated[tuple[_Part, ...], Field(min_length=1), Tag("sum")],
    Discriminator(_shape),
]
"""`$reward`, a name or a block, or a list of those and of `{from: ..., weight: ..., clip: ...}`, which is summed."""


def parts(reward: Any, watch: tuple[Any, ...] = ()) -> list[RewardPart]:
    """The parts of a sum of rewards; those that are only watched weigh nothing."""
    several = reward if isinstance(reward, tuple) else (reward,)
    summed = [part if isinstance(part, RewardPart) else RewardPart.model_construct(source=part) for part in several]
    return summed + [RewardPart.model_construct(source=part, weight=0.0) for part in watch]


class Online(Stage, ABC):
    """The fields of every stage that trains a policy on its own replies, as a reward scores them."""

    makes = "policy"
    distributed = True
    unkeyed = frozenset({"checkpoint", "show"})
    usual_lr: ClassVar[float]
    """Peak learning rate where `optim.lr` is not given and all weights train."""

    policy: PolicyRef
    """The model to tune; as this stage finds it, also the reference."""
    reward: RewardSum
    """What to raise: a `$reward`, a name or a block, or a list of them, each perhaps with a weight. A reply about which
    none says anything, as where a judge's answer cannot be read, earns what the others do; many are an error."""
    watch: tuple[RewardField, ...] = ()
    """Rewards that are shown and not trained on. If one falls on held-out prompts while the reward rises, the reward
    was hacked, and a warning says so."""
    hacking: Hacking = Hacking()
    """Further signs that the reward was hacked, and whether to stop then."""
    prompts: DataField
    """What is answered; records of any kind but raw text have prompts."""
    held_out: HeldOut | None = None
    """Prompts to judge the policy on, before and after."""
    steps: int = Field(default=100, gt=0)
    """How often new replies are drawn and learned from."""
    sampling: Sampling = Sampling()
    """How replies are drawn; `n` of them to a prompt."""
    epochs: int = Field(default=4, gt=0)
    """How often each reply is learned from."""
    minibatches: int = Field(default=4, gt=0)
    """Updates of an epoch. A step answers `minibatches` times `optim.batch_size` prompts."""
    kl: Kl = Kl()
    """The price of leaving the reference."""
    stop_kl: float | None = Field(default=None, gt=0)
    """Leave out the rest of a step's updates once the policy has moved so far from the one that sampled, in nats per
    token."""
    entropy: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus in the loss."""
    ptx: Ptx | None = None
    """Demonstrations to learn from beside the replies."""
    normalize_rewards: bool = False
    """Bring scores to mean 0 and variance 1, by the mean and variance of all replies drawn so far. Where KL is taken
    from the reward, a nat then costs a share of the scores' spread."""
    missing_eos_penalty: float = Field(default=0.0, ge=0)
    """Taken from the score of a reply that did not stop by itself."""
    doubtful_reward: Literal["refuse", "allow"] = "refuse"
    """Whether to train on a reward model that was not tested, or is no better on held-out pairs than a rule that knows
    lengths only."""
    max_too_long: float = Field(default=0.1, ge=0, le=1)
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
    show: int = Field(default=10, gt=0)
    """Keep some replies in words, in `samples/`, every so many steps."""

    @model_validator(mode="after")
    def _samples_are_what_is_scored(self) -> Online:
        if self.sampling.top_p != 1 or self.sampling.top_k:
            raise ValueError("sampling: top_p and top_k draw from another distribution than the one that is trained")
        if not self.sampling.temperature:
            raise ValueError("sampling: temperature 0 tries nothing out; it must be above 0")
        if self.watch and self.held_out is None:
            raise ValueError("watch tells on held-out prompts whether the reward was hacked; give held_out")
        limits = self.hacking
        if self.held_out is None and (limits.max_kl or limits.max_length_correlation):
            raise ValueError("hacking is looked for on held-out prompts; give held_out")
        if limits.then == "stop" and (self.held_out is None or self.held_out.every is None):
            raise ValueError("hacking.then: stop needs held_out.every, for the examinations at which to stop")
        if self.lora and self.lora.dropout:
            raise ValueError(f"lora.dropout must be 0 in {self.name}: scores with dropout cannot be compared")
        return self

    def doubts(self, made_by: Mapping[str, Stage]) -> Iterator[tuple[str, str]]:
        for path, reference in self.references() if self.doubtful_reward == "refuse" else ():
            source = made_by.get(reference.name)
            trained = path.split(".")[0] == "reward" and source is not None and source.name == "reward_model"
            if trained and getattr(source, "test", None) is None:
                right = "give its stage `test:`, pairs that it has not seen. To train on it all the same, set"
                yield path, f"reward {reference.name!r} is not tested; {right} doubtful_reward: allow"

    @property
    def prompts_per_step(self) -> int:
        return self.minibatches * self.optim.batch_size

    @property
    def updates_per_step(self) -> int:
        return self.minibatches * self.epochs

    def rate(self) -> float:
        """The peak learning rate."""
        if self.optim.lr is not None:
            return self.optim.lr
        return self.usual_lr * (10 if self.lora is not None or self.adapter == "continue" else 1)
