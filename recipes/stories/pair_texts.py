"""A stage of this recipe's own: preferences from two piles of texts."""

from __future__ import annotations

from align.data import read, write
from align.errors import CheckError
from align.records import Message, Preference, Text
from align.stage import Context, RecordsRef, Stage


class PairTexts(Stage):
    """Pair the n-th text of one dataset, as chosen, with the n-th of another, as rejected, after an empty prompt."""

    name = "pair_texts"
    makes = "records"

    better: RecordsRef
    """Texts to choose."""
    worse: RecordsRef
    """Texts to reject."""

    def run(self, ctx: Context) -> dict[str, float]:
        better, worse = read(ctx, self.better, Text), read(ctx, self.worse, Text)
        if len(better) != len(worse):
            raise CheckError(f"{len(better)} better and {len(worse)} worse texts do not make pairs")
        pairs = [
            Preference(
                f"{good.id}>{bad.id}",
                (Message("user", ""),),
                (Message("assistant", good.text),),
                (Message("assistant", bad.text),),
            )
            for good, bad in zip(better, worse, strict=True)
        ]
        write(pairs, ctx.out / "records.jsonl")
        return {"pairs": len(pairs)}
