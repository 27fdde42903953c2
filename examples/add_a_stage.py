"""A stage of one's own: best-of-n as demonstrations (RAFT, arXiv:2304.06767). `own.yaml` uses it.

A plugin beside a recipe, `plugins: [add_a_stage.py]`, is all it takes: the stage is cached, checked, resumed, and what
is wrong with its fields is told by line, as with those that come with align.
"""

from itertools import groupby

from align.data import read, write
from align.data.fields import DataField
from align.errors import CheckError
from align.records import Demonstration, Message, Prompt, Sample
from align.rewards.base import RewardField, load
from align.stage import Context, Stage


class BestOf(Stage):
    """Keep the best of a prompt's samples, by a reward, as a demonstration."""

    name = "best_of"
    makes = "records"

    data: DataField
    """Samples, several to a prompt."""
    reward: RewardField
    """What says which is best."""

    def check(self, ctx: Context) -> dict[str, float]:
        return {"samples": len(read(ctx, self.data, Sample))}

    def run(self, ctx: Context) -> dict[str, float]:
        samples = [sample for sample in read(ctx, self.data, Sample) if sample.finish == "stop"]
        if not samples:
            raise CheckError("data: no sample ended by itself; raise sampling.max_new_tokens where they are made")
        scores = load(self.reward, ctx)([Prompt(s.id, s.prompt, s.extra) for s in samples], [s.reply for s in samples])
        ranked = sorted(zip(samples, scores, strict=True), key=lambda pair: (pair[0].id, -pair[1]))
        best = [next(group)[0] for _, group in groupby(ranked, key=lambda pair: pair[0].id)]
        rows = (Demonstration(s.id, (*s.prompt, Message("assistant", s.reply)), extra=s.extra) for s in best)
        return {"rows": write(rows, ctx.out / "records.jsonl"), "mean score": sum(scores) / len(scores)}
