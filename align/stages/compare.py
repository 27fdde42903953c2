"""Which of several policies is better, and how sure that is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from align.config import Sampling
from align.data import read, write
from align.data.fields import DataField
from align.errors import CheckError, suggestion
from align.records import Prompt, Text
from align.rewards.base import Better, Reward, RewardField, load, names, rehearse
from align.stage import Context, PolicyRef, Stage, seed_of

if TYPE_CHECKING:
    from align.evals.evaluate import Answers
    from align.evals.statistics import Measure

    Measures = dict[str, dict[str, Measure]]

METRICS = ("tokens", "words", "stop", "distinct-1", "distinct-2", "kl", "nll", "perplexity")


class Compare(Stage):
    """Let every policy answer the same prompts with the same decoding, score the replies, and compare them in pairs.

    Writes comparison.json, comparison.md and every policy's replies.
    """

    name = "compare"
    version = 2
    makes = "report"

    policies: tuple[PolicyRef, ...] = Field(min_length=1)
    """What is compared; each is held against every one before it."""
    prompts: DataField
    """What they answer; keep it apart from all that they were trained on."""
    rewards: tuple[RewardField, ...] = ()
    """What scores the replies, each a `$reward`, a name or a block."""
    sampling: Sampling = Sampling()
    """How replies are drawn, for all alike."""
    base: PolicyRef | None = None
    """The policy that KL is measured to; none means the first of `policies`."""
    text: DataField | None = None
    """Raw text whose negative log-likelihood is measured, in nats a token: what alignment costs in knowledge."""
    text_tokens: int = Field(512, gt=1)
    """Tokens of each text that are read, from its start."""
    worth: dict[str, PositiveFloat] = Field({})
    """Metric to the smallest difference that matters: verdicts say how many prompts would show it, or that policies
    differ by less. Not given, it is 0.05 for rates, else a fifth of the standard deviation between prompts."""
    best_of: tuple[PositiveInt, ...] = ()
    """Sizes such as `[1, 2, 4, 8]`: what taking the best of so many replies by the first reward would give, estimated
    without bias from the `sampling.n` replies to each prompt, beside the KL that it costs."""
    templates: Literal["same", "own"] = "same"
    """`own` lets policies with different chat templates be compared, each with its own."""
    max_too_long: float = Field(0.1, ge=0, le=1)
    """The share of prompts that may leave a policy or a reward model no room for a reply; they are left out for all
    policies alike, and more is an error."""

    @model_validator(mode="after")
    def _distinct_names(self) -> Compare:
        twice = [r for r in self.policies if self.policies.count(r) > 1]
        if twice:
            raise ValueError(f"policies: {twice[0]} is there twice")
        for name in names(self.rewards):
            if name in METRICS:
                raise ValueError(f"rewards: {name!r} is the name of a metric that is measured anyway; give a `name:`")
        known = [*names(self.rewards), *METRICS]
        for metric in self.worth:
            if metric not in known:
                raise ValueError(f"worth: no metric is called {metric!r}.{suggestion(metric, known)}")
        return self

    @model_validator(mode="after")
    def _enough_replies(self) -> Compare:
        if self.best_of and not self.rewards:
            raise ValueError("best_of: the best by which reward? Name at least one in `rewards`")
        if self.best_of and max(self.best_of) > self.sampling.n:
            n, most = self.sampling.n, max(self.best_of)
            raise ValueError(f"best_of: the best of {most} needs {most} replies a prompt; sampling.n is {n}")
        return self

    def measures(self) -> frozenset[str]:
        unread = () if self.text is not None else ("nll", "perplexity")
        return frozenset({*METRICS, *names(self.rewards)}.difference(unread))

    def check(self, ctx: Context) -> dict[str, Any]:
        prompts = len(self._asked(ctx))
        if prompts < 2:
            raise CheckError(f"a comparison needs at least 2 prompts, and hundreds to tell much; there is {prompts}")
        figures = {"prompts": prompts, "replies": prompts * self.sampling.n * len(self.policies)}
        return figures | ({"texts": len(read(ctx, self.text, Text))} if self.text is not None else {})

    def run(self, ctx: Context) -> dict[str, float]:
        from align.evals.best_of import curve
        from align.evals.compare import comparison
        from align.evals.contests import contests
        from align.evals.markdown import markdown

        rewards = [load(reward, ctx) for reward in self.rewards]
        answers, measures, tokenizers = self._measured(ctx, rewards)
        better: dict[str, Better] = {reward.name: reward.better for reward in rewards}
        better |= {"nll": "lower", "perplexity": "lower"}
        prompts = len({sample.prompt for sample in next(iter(answers.values())).samples})
        settings = self.sampling.model_dump() | {"seed": ctx.seed, "prompts": prompts, "templates": self.templates}
        settings["base"] = (self.base or self.policies[0]).name
        seed = seed_of(ctx.seed, "bootstrap")
        directions: dict[str, Better] = {reward.name: reward.better for reward in rewards}
        found = comparison(measures, better, settings, seed, tokenizers, self.worth)
        samples = {name: made.samples for name, made in answers.items()}
        found |= contests(samples, directions, seed)
        if self.best_of:
            found["best_of"] = {
                name: curve(made, list(directions), rewards[0].better, self.best_of, seed_of(seed, rewards[0].name))
                for name, made in samples.items()
            }
        for sentence in found["notes"]:
            ctx.note(sentence)
        for name, made in answers.items():
            write(made.samples, ctx.out / "replies" / f"{name}.jsonl")
        (ctx.out / "comparison.json").write_text(json.dumps(found, indent=1) + "\n")
        (ctx.out / "comparison.md").write_text(markdown(found))
        return {f"{name}/{m}": v["value"] for name, values in found["policies"].items() for m, v in values.items()}

    def _measured(self, ctx: Context, rewards: list[Reward]) -> tuple[dict[str, Answers], Measures, dict[str, str]]:
        """Every policy's replies, what was measured of it, and its tokenizer."""
        from align.evals.evaluate import Subject, scored
        from align.evals.metrics import descriptions, scores

        prompts = self._asked(ctx)
        texts = read(ctx, self.text, Text) if self.text is not None else []
        answers, measures, tokenizers = {}, {}, {}
        for reference in self.policies:
            subject = Subject(ctx, reference)
            name, tokenizers[subject.name] = subject.name, subject.policy.contract.tokenizer
            made = scored(subject.answers(prompts, self.sampling, seed_of(ctx.seed, "answers")), rewards)
            measures[name] = scores(made.samples, [reward.name for reward in rewards]) | descriptions(made.samples)
            if texts:
                measures[name]["nll"] = subject.nll(texts, self.text_tokens)
            answers[name] = made
            subject.release()
        self._add_kl(ctx, answers, measures, tokenizers)
        return answers, measures, tokenizers

    def _asked(self, ctx: Context) -> list[Prompt]:
        """The prompts that every policy, the base among them, can answer and every reward model can read."""
        from align.evals.evaluate import questions
        from align.evals.fitting import fitting, readers

        policies = [*self.policies, *([self.base] if self.base and self.base not in self.policies else [])]
        reading = readers(ctx, policies, ())
        self._check_templates({reader.name: reader.seen.contract.template for reader in reading})
        reading += readers(ctx, (), self.rewards)
        prompts, left_out = fitting(
            questions(ctx, self.prompts), reading, self.sampling.max_new_tokens, self.max_too_long
        )
        if left_out:
            ctx.note(left_out)
        if prompts:
            rehearse(self.rewards, ctx, prompts[0])
        return prompts

    def _check_templates(self, templates: dict[str, str]) -> None:
        for name, template in templates.items() if self.templates == "same" else ():
            first = next(iter(templates))
            if template != templates[first]:
                raise CheckError(
                    f"{name!r} was made with another chat template than {first!r}; with `templates: own` each is "
                    "asked in its own"
                )

    def _add_kl(
        self, ctx: Context, answers: dict[str, Answers], measures: Measures, tokenizers: dict[str, str]
    ) -> None:
        """KL to the base, in nats a token: what the policy says of its own tokens minus what the base says of them."""
        from align.evals.evaluate import Subject
        from align.evals.metrics import per_count

        drawn = self.sampling
        if not drawn.temperature or drawn.top_p < 1 or drawn.top_k:
            ctx.note("kl is not measured: greedy and truncated decoding do not draw from the policy's own distribution")
            return
        base = Subject(ctx, self.base or self.policies[0])
        for name, made in answers.items():
            if name == base.name:
                continue
            if tokenizers[name] != base.policy.contract.tokenizer:
                ctx.note(f"kl of {name} is not measured: {base.name} has another tokenizer")
                continue
            theirs = base.logps(made, drawn.temperature)
            ratios = [s.logp - logp for s, logp in zip(made.samples, theirs, strict=True)]
            measures[name]["kl"] = per_count(made.samples, ratios, [s.tokens for s in made.samples])
