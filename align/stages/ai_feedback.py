"""Preferences by a model's judgement instead of people's: constitutional AI's second half, RLAIF."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from align.config import Endpoint, Sampling
from align.constitution import ConstitutionField, asked_to_compare
from align.data import read, write
from align.data.fields import DataField
from align.errors import CheckError
from align.records import Sample
from align.stage import Context, GeneratorRef, Stage

if TYPE_CHECKING:
    from align.generate.base import Generator
    from align.generate.feedback import Judge
    from align.generate.pairs import Item, Replies

PAIR = Sampling(n=2)
CLAMP = (0.4, 0.6)
ANSWER = 8
"""Tokens of an answer and of what asks for it after reasoning, in the room that a question needs."""


class AIFeedback(Stage):
    """Let a model judge pairs of replies by the principles of a constitution; make preferences with soft labels of it.

    A pair is judged in both orders, by several principles, by the log-probabilities of the answers A and B; the label
    is the mean. With replies of the policy that is to be tuned, and `dpo`, or `reward_model` and `ppo`, to follow, this
    is RLAIF (arXiv:2212.08073, section 4; arXiv:2309.00267).
    """

    name = "ai_feedback"
    makes = "records"

    prompts: DataField
    """What is answered; without `policy`, samples, an even number to each prompt."""
    policy: GeneratorRef | None = None
    """Who writes the replies; none means that they are there."""
    constitution: ConstitutionField
    """What replies are held to: `harmless`, another name, or a file."""
    tags: tuple[str, ...] = ()
    """Only principles with one of these tags; none means all of them."""
    judge: GeneratorRef | None = None
    """Who judges; none means the policy itself."""
    principles: int = Field(4, ge=1)
    """How many principles are drawn for each pair; the label is the mean over them."""
    sampling: Sampling = PAIR
    """How replies are drawn; n of them make n / 2 pairs."""
    reasoning: Sampling | None = None
    """Let the judge think in words before it answers, drawn so; none means that it answers at once."""
    clamp: tuple[float, float] = CLAMP
    """After reasoning, probabilities are kept within this: a model that has argued is too sure of its answer."""
    min_margin: float = Field(0.0, ge=0, lt=0.5)
    """Labels no farther than this from a half are ties."""
    ties: Literal["drop", "keep"] = "drop"
    """Ties are left out, or kept with their soft labels."""
    unfinished: Literal["drop", "keep"] = "drop"
    """Replies that were cut at the token limit; kept ones are marked, so that no stop is trained after them."""
    unreliable: Literal["refuse", "keep"] = "refuse"
    """What to do where the judge, asked in the other order, contradicts itself as much as it agrees."""
    max_too_long: float = Field(0.1, ge=0, le=1)
    """The share of prompts that may leave no room for replies or for the question about them; those are left out, and
    more is an error."""

    @model_validator(mode="after")
    def _possible(self) -> AIFeedback:
        if self.policy is None and self.judge is None:
            raise ValueError("policy: say who writes (`policy:`), who judges (`judge:`), or both")
        if self.policy is not None and self.sampling.n % 2:
            raise ValueError(f"sampling: replies are judged in pairs; n is {self.sampling.n}")
        if self.policy is None and self.sampling != PAIR:
            raise ValueError("sampling: without policy, nothing is sampled; remove it")
        if self.reasoning is None and self.clamp != CLAMP:
            raise ValueError("clamp: has no effect without reasoning")
        if not self.clamp[0] <= 0.5 <= self.clamp[1]:
            raise ValueError("clamp: a probability of one half must be within it")
        self.constitution.tagged(self.tags)
        return self

    def check(self, ctx: Context) -> dict[str, Any]:
        items = self._items(ctx)
        pairs = sum(len(item.replies) or self.sampling.n for item in items) // 2
        drawn = min(self.principles, len(self.constitution.tagged(self.tags)))
        return {"prompts": len(items), "pairs": pairs, "questions": pairs * drawn * 2}

    def run(self, ctx: Context) -> dict[str, float]:
        from align.data.chunks import in_chunks
        from align.generate.feedback import reliability
        from align.generate.pairs import preferences

        items = sorted(self._items(ctx), key=lambda item: -item.size)
        size = max(1, ctx.machine.sample_batch // self.sampling.n)
        made = in_chunks(ctx, "judging", items, size, self._labelling(ctx))
        told = reliability([row for of in made for row in of["judged"]])
        self._trust(ctx, told, sum(len(of["judged"]) for of in made))
        left_out = sum((Counter(of["left_out"]) for of in made), Counter[str]())
        pairs = [
            pair
            for item, of in zip(items, made, strict=True)
            for pair in preferences(item.prompt, of, self.min_margin, self.ties == "keep", left_out)
        ]
        counted = "left out " + (", ".join(f"{count} {what}" for what, count in left_out.items()) or "nothing")
        if not pairs:
            raise CheckError(f"no pair is left; {counted}")
        ctx.note(f"{len(pairs)} pairs; {counted}")
        write(pairs, ctx.out / "records.jsonl")
        mean = sum(pair.label for pair in pairs) / len(pairs)
        return {"pairs": len(pairs), "label": mean, **told, **{what: float(n) for what, n in left_out.items()}}

    def _trust(self, ctx: Context, told: dict[str, float], pairs: int) -> None:
        """Raises CheckError where labels would be noise."""
        if told.get("consistency_low", 0.0) > 0:
            return
        if "order_agreement" in told:
            value, low, high = (told.get(f"consistency{end}", 0.0) for end in ("", "_low", "_high"))
            said = (
                f"asked in the other order, the judge contradicts itself: consistency over {pairs} pairs is "
                f"{value:.2f} [{low:.2f}, {high:.2f}], where 1 is one opinion, 0 none and -1 always the same letter; "
                f"it says A with probability {0.5 + told['position_bias']:.2f}, and labels have "
                f"{told['label_entropy']:.3f} nats of entropy, of 0.693"
            )
        else:
            said = f"none of the judge's answers about {pairs} pairs could be read"
        if self.unreliable == "refuse" or "order_agreement" not in told:
            raise CheckError(
                f"{said}. Its labels would be noise: take a better judge, or pairs that differ in what is asked, or say"
                " `unreliable: keep`"
            )
        ctx.note(f"{said}; kept all the same", level="warning")

    def _labelling(self, ctx: Context) -> Callable[[Sequence[Item]], list[dict[str, Any]]]:
        """What turns items into rows: `replies`, pairs that were `judged`, and counts of what was `left_out`."""
        from align.generate.load import load_generator
        from align.generate.pairs import paired

        writer = None if self.policy is None else load_generator(ctx, self.policy)
        asked = self.judge or self.policy
        assert asked is not None  # the fields' validator saw to it
        judge = self._judge(ctx, writer if writer and asked == self.policy else load_generator(ctx, asked))

        def label(items: Sequence[Item]) -> list[dict[str, Any]]:
            replies = self._written(ctx, writer, items) if writer else [item.replies for item in items]
            rows = [paired(of, self.unfinished == "keep") for of in replies]
            where = [(i, n) for i, row in enumerate(rows) for n in range(len(row["judged"]))]
            pairs = [(items[i].prompt.prompt, *(text for text, _ in rows[i]["judged"][n]["replies"])) for i, n in where]
            for (i, n), found in zip(where, judge(pairs), strict=True):
                rows[i]["judged"][n] |= found
            return rows

        return label

    def _judge(self, ctx: Context, generator: Generator) -> Judge:
        from align.data.chunks import tell
        from align.generate.feedback import Judge

        return Judge(
            generator, self.constitution.tagged(self.tags), self.principles, self.reasoning, self.clamp,
            ctx.seed_of("feedback"), tell(ctx, "judging, this batch"),
        )  # fmt: skip

    def _written(self, ctx: Context, writer: Generator, items: Sequence[Item]) -> list[Replies]:
        from align.data.chunks import tell

        prompts = [item.prompt.prompt for item in items]
        made = writer.generate(prompts, self.sampling, ctx.seed_of("replies"), tell(ctx, "writing, this batch"))
        said: list[list[tuple[str, str]]] = [[] for _ in items]
        for completion in made:
            said[completion.prompt].append((completion.text, completion.finish))
        return [tuple(of) for of in said]

    def _items(self, ctx: Context) -> list[Item]:
        """What is to be judged and leaves room for that."""
        from align.evals.evaluate import questions
        from align.evals.fitting import fitting, readers
        from align.generate.pairs import Item, grouped

        if self.policy is None:
            items = grouped(read(ctx, self.prompts, Sample))
        else:
            items = [Item(prompt) for prompt in questions(ctx, self.prompts)]
            room, writers = self.sampling.max_new_tokens, _local(ctx, self.policy)
            kept, said = fitting([i.prompt for i in items], readers(ctx, writers, ()), room, self.max_too_long)
            items = [Item(prompt) for prompt in kept]
            _note(ctx, said)
        room = ANSWER + (self.reasoning.max_new_tokens if self.reasoning else 0)
        room += 2 * self.sampling.max_new_tokens if self.policy else 0
        longest = max(self.constitution.tagged(self.tags), key=lambda principle: len(principle.feedback))
        asked = [replace(i.prompt, prompt=asked_to_compare(i.prompt.prompt, *i.longest, longest)) for i in items]
        judges = readers(ctx, _local(ctx, self.judge or self.policy), ())
        kept, said = fitting(asked, judges, room, self.max_too_long)
        _note(ctx, said)
        fits = {id(prompt) for prompt in kept}
        return [item for item, prompt in zip(items, asked, strict=True) if id(prompt) in fits]


def _local(ctx: Context, reference: GeneratorRef | None) -> list[GeneratorRef]:
    """The reference, unless it is behind a server, whose context nobody here knows."""
    there = reference is not None and not isinstance(ctx.inputs.get(reference.name), Endpoint)
    return [reference] if reference is not None and there else []


def _note(ctx: Context, said: str) -> None:
    if said:
        ctx.note(said)
