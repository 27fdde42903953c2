"""A metric of one's own: from all replies of a policy to a number a prompt. A recipe uses it so:

    plugins: [add_a_metric.py]
    stages:
      result: {stage: compare, metrics: [asks_back, {metric: asks_back, name: exclaims, options: {mark: "!"}}], ...}

Its further arguments are options of the recipe, checked by their annotations. `per_prompt` averages over the replies to
a prompt first, so that intervals and tests know that prompts are what was drawn.
"""

from collections.abc import Sequence

from align.evals.metrics import per_prompt
from align.evals.registry import metric
from align.evals.statistics import Measure
from align.records import Sample


@metric("asks_back", better="lower")
def asks_back(samples: Sequence[Sample], mark: str = "?") -> Measure:
    """The share of replies that end with a mark."""
    return per_prompt(samples, [sample.reply.rstrip().endswith(mark) for sample in samples])
