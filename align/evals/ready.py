"""Answers that are there already: of a model that nobody can run here, of people, of an earlier run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from align.config import Data, Sampling
from align.data import read
from align.errors import CheckError
from align.evals.evaluate import Answers
from align.records import Messages, Prompt, Sample
from align.stage import Context, RecordsRef, Reference
from align.store import Artifact


class Ready:
    """A contestant whose replies are records; prompts find theirs by what is asked."""

    weights = False

    def __init__(self, ctx: Context, reference: Reference):
        self.ctx, self.name = ctx, reference.name
        self.tokenizer = f"unknown, that of {self.name}"

    def answers(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> Answers:
        """At most `sampling.n` replies to each prompt. Raises CheckError where a prompt has none."""
        found: dict[Messages, list[Sample]] = defaultdict(list)
        for sample in read(self.ctx, RecordsRef(self.name), Sample):
            found[sample.prompt].append(sample)
        missing = [prompt for prompt in prompts if prompt.prompt not in found]
        if missing:
            raise CheckError(
                f"{self.name}: {len(missing)} of {len(prompts)} prompts have no answer among its {len(found)}, such as "
                f"prompt {missing[0].id}: {missing[0].prompt[-1].content!r:.60}. Prompts must be the same to the letter"
            )
        samples = [
            replace(sample, id=prompt.id, policy=self.name, index=index, scores={}, extra=prompt.extra)
            for prompt in prompts
            for index, sample in enumerate(sorted(found[prompt.prompt], key=lambda sample: sample.index)[: sampling.n])
        ]
        return Answers(samples, [])

    def remark(self, sampling: Sampling) -> str:
        """How they were drawn, where that is known, unless it was like this."""
        source = self.ctx.inputs[self.name]
        drawn = source.manifest["fields"].get("sampling") if isinstance(source, Artifact) else None
        if drawn is None:
            return "ready answers, decoded nobody here knows how"
        known = Sampling.model_validate(drawn)
        other = [f"{field} {value}, not {getattr(sampling, field)}" for field, value in known if field != "n"
                 and value != getattr(sampling, field)]  # fmt: skip
        return f"ready answers, decoded with {'; '.join(other)}" if other else ""

    def release(self) -> None:
        """Nothing to give back."""


def is_ready(ctx: Context, reference: Reference) -> bool:
    """Whether a contestant is records rather than a model; of one that is yet to be made, nobody knows."""
    source = ctx.inputs.get(reference.name)
    return isinstance(source, Data) or getattr(source, "kind", None) == "records"
