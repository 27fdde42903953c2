"""What a recipe may write where a metric is wanted, and how a function becomes one.

A metric reduces a policy's scored replies to a `Measure`, a number a prompt:

    @metric("asks_back", better="lower")
    def asks_back(samples: Sequence[Sample], mark: str = "?") -> Measure:
        \"\"\"The share of replies that end with a question.\"\"\"
        return per_prompt(samples, [s.reply.rstrip().endswith(mark) for s in samples])

In a plugin file beside the recipe that is all: `metrics: [asks_back, {metric: asks_back, options: {mark: "!"}}]`. The
arguments after the samples are its options, checked by their annotations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from align.config import Config
from align.errors import AlignError
from align.records import Sample
from align.registry import Registry
from align.rewards.options import Better, Named

if TYPE_CHECKING:
    from align.evals.statistics import Measure


class Metric(Named):
    """A registered function `(samples, options...) -> Measure`; None where it has nothing to say."""

    given = 1

    def __call__(self, samples: Sequence[Sample], **options: Any) -> Measure | None:
        return self.function(samples, **options)


METRICS: Registry[Metric] = Registry(
    "metric",
    "align.metrics",
    {
        name: f"align.evals.metrics:{name}"
        for name in ("tokens", "words", "stop", "truncated", "distinct", "self_repetition", "pass_at")
    },
)


def metric(name: str, better: Better = None) -> Callable[[Callable[..., Measure | None]], Metric]:
    """Registers a function `(samples, options...) -> Measure` as the metric that recipes call `name`."""

    return lambda function: METRICS.add(name, Metric(name, function, better), function)


class MetricSpec(Config):
    """A metric by name, `self_repetition`, or in full, `{metric: pass_at, options: {reward: correct, k: 4}}`."""

    metric: str
    """The metric's name."""
    name: str = ""
    """What its row is called; none means the metric's name."""
    options: dict[str, Any] = Field({})
    """Its options."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        return {"metric": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _complete(self) -> MetricSpec:
        try:
            options = METRICS[self.metric].checked(self.options)
        except AlignError as error:
            raise ValueError(f"metric: {error}") from None
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "name", self.name or self.metric)
        return self

    def __call__(self, samples: Sequence[Sample]) -> Measure | None:
        return METRICS[self.metric](samples, **self.options)

    @property
    def better(self) -> Better:
        return METRICS[self.metric].better
