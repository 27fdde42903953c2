"""What a reward is, how a rule becomes one, and what a recipe may write where a reward is wanted.

A reward maps prompts and replies to scores. The simplest is a rule, a function of one prompt and one reply:

    @reward("shouting", better="lower")
    def shouting(prompt: Prompt, reply: str, mark: str = "!") -> float:
        \"\"\"Exclamation marks a word.\"\"\"
        return reply.count(mark) / max(len(reply.split()), 1)

In a plugin file beside the recipe that is all: `rewards: [shouting, {rule: shouting, options: {mark: "?"}}]`. The
arguments after the reply are its options, checked by their annotations; one of type `Path` is a file relative to the
recipe, and its content is part of the stage's key. A rule that can say what decided has a second function of the same
arguments, `@reward("shouting", marks=shouts)`, which returns a line for each thing that it found in the reply.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core.core_schema import ValidationInfo

from align.config import Config, Model
from align.errors import AlignError, CheckError
from align.records import Prompt
from align.registry import Registry
from align.rewards.options import Better, Named
from align.stage import Context, GeneratorRef, Reference, RewardRef


class Reward(Protocol):
    """Scores replies, one for each prompt given; NaN where it has nothing to say about a prompt."""

    @property
    def name(self) -> str: ...

    @property
    def better(self) -> Better: ...

    def __call__(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]: ...


@dataclass(frozen=True)
class Rule(Named):
    """A reward that a function computes from one prompt and one reply."""

    given = 2
    better: Better = "higher"
    options: Mapping[str, Any] = field(default_factory=dict)
    marks: Callable[..., list[str]] | None = None
    """Of the same arguments: what in the reply its score goes by, in words."""

    def __call__(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
        return [float(self.function(p, r, **self.options)) for p, r in zip(prompts, replies, strict=True)]


REWARDS: Registry[Rule] = Registry(
    "reward",
    "align.rewards",
    {
        name: f"align.rewards.rules:{name}"
        for name in ("length", "length_window", "repetition", "lexicon", "numeric_answer", "pattern")
    }
    | {"refusal": "align.rewards.refusal:refusal"}
    | {
        f"toy_{name}": f"align.rewards.toy:{name}"
        for name in ("truth", "correct", "polite", "harmful_compliance", "over_refusal")
    },
)


def reward(
    name: str, better: Better = "higher", marks: Callable[..., list[str]] | None = None
) -> Callable[[Callable[..., float]], Rule]:
    """Registers a function `(prompt, reply, options...) -> score` as the rule that recipes call `name`."""

    return lambda function: REWARDS.add(name, Rule(name, function, better, marks=marks), function)


class Graded(Config):
    """An example for a judge."""

    prompt: str
    reply: str
    score: int = Field(gt=0)
    """What the judge should say."""


class Rubric(Config):
    """A language model that judges each reply by itself."""

    model: GeneratorRef
    """Who judges: a policy, or an endpoint of `models:`."""
    text: str
    """What to look at, and what makes a reply good."""
    points: int = Field(default=5, gt=1, lt=10)
    """The best score; the worst is 1."""
    examples: tuple[Graded, ...] = ()
    """Replies with their scores, shown to the judge first."""

    @model_validator(mode="after")
    def _on_the_scale(self) -> Rubric:
        for example in self.examples:
            if example.score > self.points:
                raise ValueError(f"examples: a score of {example.score}, but points go to {self.points}")
        return self


class Members(Config):
    """Several rewards as one."""

    members: tuple[RewardField, ...] = Field(min_length=2)
    """Rewards, each a `$reward`, a name or a block; bring them to one scale by each one's `scale`."""
    pessimism: float = Field(default=1.0, ge=0)
    """The score is the members' mean minus so many standard deviations between them: replies on which they disagree
    are worth less, which is where one of them is being exploited."""


class RewardSpec(Config):
    """A reward by name, `refusal`, or in full, `{rule: lexicon, options: {file: words.txt}}`.

    A name is that of a card, `reward_models/NAME.yaml` beside the recipe or in the package, else that of a rule.
    """

    card: str | None = None
    """The card that the other keys change."""
    rule: str | None = None
    """The rule's name."""
    model: Model | None = None
    """A reward model from outside, with one label."""
    judge: Rubric | None = None
    """A language model that scores by a rubric."""
    ensemble: Members | None = None
    """Several rewards as one that is wary where they disagree."""
    name: str = ""
    """What its column is called; none means the card's or the rule's name."""
    options: dict[str, Any] = Field({})
    """Options of the rule."""
    scale: float = 1.0
    """Scores are multiplied by this, then clipped."""
    clip: tuple[float, float] | None = None
    """Lowest and highest score."""
    better: Literal["higher", "lower", "neither"] | None = None
    """Which scores are good; none means what the rule says, and higher for others, turned by a negative `scale`."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any, info: ValidationInfo) -> Any:
        """A card's content takes the place of its name, so that the content is what the stage's key is made of."""
        from align.rewards.cards import find

        value = {"card": value} if isinstance(value, str) else value
        if not isinstance(value, dict) or not isinstance(value.get("card"), str):
            return value
        name = value["card"]
        given = {k: v for k, v in value.items() if k != "card"}
        found = find(name, (info.context or {}).get("base"))
        if found is None:
            return {"rule": name, "name": name} | given
        return {"name": name} | found.spec() | given

    @model_validator(mode="after")
    def _complete(self) -> RewardSpec:
        sources = {"rule": self.rule, "model": self.model, "judge": self.judge, "ensemble": self.ensemble}
        given = [name for name, source in sources.items() if source is not None]
        if len(given) != 1:
            raise ValueError(f"a reward is one of {', '.join(sources)}; found {' and '.join(given) or 'none of them'}")
        if self.rule is None:
            if self.options:
                raise ValueError("options: only rules have options")
            return self._named(self.model.path if self.model else given[0])
        try:
            rule = REWARDS[self.rule]
        except AlignError as error:
            raise ValueError(f"rule: {error}") from None
        object.__setattr__(self, "options", rule.checked(self.options))
        return self._named(self.rule)

    def _named(self, name: str) -> RewardSpec:
        if not self.name:
            object.__setattr__(self, "name", name)
        return self


def _shape(value: Any) -> str:
    return "trained" if isinstance(value, Reference) or (isinstance(value, str) and value.startswith("$")) else "named"


RewardField = Annotated[
    Annotated[RewardRef, Tag("trained")] | Annotated[RewardSpec, Tag("named")], Discriminator(_shape)
]
"""`$reward` for a trained reward model, a name, or a block."""

Members.model_rebuild()
RewardSpec.model_rebuild()

RewardFields = Annotated[tuple[RewardField, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Scaled:
    """Another reward's scores times `scale`, then clipped."""

    reward: Reward
    name: str
    better: Better
    scale: float = 1.0
    clip: tuple[float, float] | None = None

    def __call__(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
        low, high = self.clip or (float("-inf"), float("inf"))
        return [min(max(score * self.scale, low), high) for score in self.reward(prompts, replies)]


def marks(reward: Reward, prompt: Prompt, reply: str) -> list[str] | None:
    """What in a reply a reward's score goes by, in words; None where the reward cannot say."""
    while isinstance(reward, Scaled):
        reward = reward.reward
    if not isinstance(reward, Rule) or reward.marks is None:
        return None
    return reward.marks(prompt, reply, **reward.options)


def is_rule(reward: Reward) -> bool:
    """Whether a function computes it: what that says nothing about, it never will."""
    return is_rule(reward.reward) if isinstance(reward, Scaled) else isinstance(reward, Rule)


def load(wanted: RewardRef | RewardSpec, ctx: Context) -> Reward:
    """The reward that a stage's field names, ready to score."""
    if isinstance(wanted, Reference):
        from align.rewards.model import TrainedReward

        return TrainedReward.load(ctx.checkpoint(wanted), ctx, wanted.name)
    if wanted.model is not None:
        from align.rewards.model import TrainedReward

        found: Reward = TrainedReward.load(wanted.model, ctx, wanted.name)
    elif wanted.judge is not None:
        from align.generate.load import load_generator
        from align.rewards.judge import Judge

        found = Judge(load_generator(ctx, wanted.judge.model), wanted.judge, wanted.name, ctx.note)
    elif wanted.ensemble is not None:
        from align.rewards.ensemble import Ensemble

        found = Ensemble([load(one, ctx) for one in wanted.ensemble.members], wanted.ensemble.pessimism, wanted.name)
    else:
        found = bound(REWARDS[str(wanted.rule)], wanted.options, ctx.base)
    return Scaled(found, wanted.name, direction(wanted), wanted.scale, wanted.clip)


def direction(wanted: RewardRef | RewardSpec) -> Better:
    """Which scores of a reward are good, said without loading it. A negative scale turns what the rule says."""
    if isinstance(wanted, Reference):
        return "higher"
    if wanted.better is not None:
        return None if wanted.better == "neither" else wanted.better
    own: Better = "higher" if wanted.rule is None else REWARDS[wanted.rule].better
    if own is None or wanted.scale >= 0:
        return own
    return "lower" if own == "higher" else "higher"


def rehearse(wanted: Sequence[RewardRef | RewardSpec], ctx: Context, prompt: Prompt) -> None:
    """Scores a reply to a prompt by each rule, so that one that cannot work fails before anything is sampled."""
    for rule in wanted:
        if isinstance(rule, RewardSpec) and rule.ensemble is not None:
            rehearse(rule.ensemble.members, ctx, prompt)
        if isinstance(rule, RewardSpec) and rule.rule is not None:
            try:
                load(rule, ctx)([prompt], ["Yes."])
            except AlignError:
                raise
            except Exception as error:  # A rule is anybody's function.
                what = f"{type(error).__name__}: {error}{_line_of(error, rule.rule)}"
                raise CheckError(f"reward {rule.name!r} fails on prompt {prompt.id}: {what}") from error


def _line_of(error: Exception, rule: str) -> str:
    """Where in a rule's own file an error came up, if it did there."""
    file = REWARDS[rule].function.__code__.co_filename
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({file}:{lines[-1]})" if lines else ""


def bound(rule: Rule, options: Mapping[str, Any], base: Path) -> Rule:
    """A rule with its options set; files are relative to `base`."""
    return replace(
        rule, options={k: base / v.expanduser() if isinstance(v, Path) else v for k, v in rule.checked(options).items()}
    )


def names(wanted: Sequence[RewardRef | RewardSpec]) -> list[str]:
    """The columns of these rewards. Raises ValueError where two have one name."""
    made = [w.name for w in wanted]
    for name in made:
        if made.count(name) > 1:
            raise ValueError(f"two rewards are called {name!r}; give one of them a `name:`")
    return made
