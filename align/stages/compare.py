"""Which of several policies is better, and how sure that is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from align.config import Sampling
from align.data import read, write
from align.data.fields import DataField
from align.errors import CheckError, suggestion
from align.evals import WIN_RATE
from align.evals.benchmarks import Benchmark
from align.evals.brittleness import transformed
from align.evals.judges import PairJudge
from align.evals.paraphrase import Paraphrase, TransformationField, paraphrased, told
from align.evals.registry import MetricSpec
from align.records import Prompt, Text
from align.rewards.base import Better, Reward, RewardField, direction, load, names, rehearse
from align.stage import ContestantRef, Context, PolicyRef, Reference, Stage, seed_of

if TYPE_CHECKING:
    from align.evals.fitting import Reader
    from align.evals.measuring import Panel, Questions

MEASURED: tuple[str, ...] = ("tokens", "words", "stop", "distinct-1", "distinct-2", "kl", "nll", "perplexity")


class Compare(Stage):
    """Let every policy answer the same prompts with the same decoding, score the replies, and compare them in pairs.

    Writes comparison.json, comparison.md and every policy's replies.
    """

    name = "compare"
    version = 4
    makes = "report"

    policies: tuple[ContestantRef, ...] = Field(min_length=1)
    """What is compared, each against every one before it: policies, endpoints, and records with ready answers to the
    same prompts."""
    prompts: DataField | None = None
    """What they answer; keep it apart from all that they were trained on."""
    cluster: str | None = None
    """The column that says which prompts belong together, such as `conversation_id`: intervals, tests and numbers of
    prompts then go by what they belong to. Turns of one conversation belong together anyway, where a prompt's messages
    are the beginning of another's."""
    rewards: tuple[RewardField, ...] = ()
    """What scores the replies, each a `$reward`, a name or a block."""
    metrics: tuple[MetricSpec, ...] = ()
    """What else is measured of the replies, each a name or a block: `[self_repetition, {metric: pass_at, options:
    {reward: correct, k: 4}}]`; tokens, words, stops and distinct n-grams always are."""
    judges: tuple[PairJudge, ...] = ()
    """Language models that say which of two replies is better: `{model: $judge, text: Which reply is kinder?}`."""
    sampling: Sampling = Sampling()
    """How replies are drawn, for all alike."""
    base: PolicyRef | None = None
    """The policy that KL is measured to; none means the first of `policies`."""
    text: DataField | None = None
    """Raw text whose negative log-likelihood is measured, in nats a token: what alignment costs in knowledge."""
    text_tokens: int = Field(512, gt=1)
    """Tokens of each text that are read, from its start."""
    benchmarks: tuple[Benchmark, ...] = ()
    """Tasks of lm-evaluation-harness, `[arc_easy, {task: gsm8k, limit: 200, few_shot: 5}]`, asked in each policy's own
    template: what alignment costs in ability. Their metrics are `arc_easy/acc` and the like. Needs align[eval]."""
    worth: dict[str, PositiveFloat] = Field({})
    """Metric to the smallest difference that matters: verdicts say how many prompts would show it, or that policies
    differ by less. Not given, it is 0.05 for rates, else a fifth of the standard deviation between prompts."""
    best_of: tuple[PositiveInt, ...] = ()
    """Sizes such as `[1, 2, 4, 8]`: what taking the best of so many replies by the first reward would give, estimated
    without bias from the `sampling.n` replies to each prompt, beside the KL that it costs."""
    brittleness: tuple[TransformationField, ...] = ()
    """Transformations of the prompts (typos, casing, spacing, irrelevant, suffix, reordered, or a language model's
    rewording: `{paraphrase: $judge}`) under which all are asked again: how far do the scores move?"""
    templates: Literal["same", "own"] = "same"
    """`own` lets policies with different chat templates be compared, each with its own."""
    max_too_long: float = Field(0.1, ge=0, le=1)
    """The share of prompts that may leave a policy or a reward model no room for a reply; they are left out for all
    policies alike, and more is an error. So it is with the documents of a benchmark."""

    @model_validator(mode="after")
    def _distinct_names(self) -> Compare:
        twice = [r for r in self.policies if self.policies.count(r) > 1]
        if twice:
            raise ValueError(f"policies: {twice[0]} is there twice")
        taken: list[str] = list(MEASURED)
        named = [("rewards", name) for name in names(self.rewards)]
        named += [("metrics", metric.name) for metric in self.metrics]
        named += [("judges", judge.name) for judge in self.judges]
        for field, name in named:
            if name in taken:
                raise ValueError(f"{field}: {name!r} is the name of another metric that is measured; give a `name:`")
            taken.append(name)
        altered = [one.name if isinstance(one, Paraphrase) else one for one in self.brittleness]
        if twice := next((name for name in altered if altered.count(name) > 1), None):
            raise ValueError(f"brittleness: {twice!r} is there twice; give one of them a `name:`")
        for metric in self.worth:
            if metric not in taken and not any(fnmatchcase(metric, f"{b.name}/*") for b in self.benchmarks):
                raise ValueError(f"worth: no metric is called {metric!r}.{suggestion(metric, taken)}")
        return self

    @model_validator(mode="after")
    def _asks_something(self) -> Compare:
        names = [benchmark.name for benchmark in self.benchmarks]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"benchmarks: {twice[0]!r} is there twice; give one a `name:`")
        if self.prompts is None:
            about = ("cluster", "rewards", "metrics", "judges", "best_of", "brittleness")
            if idle := [name for name in about if getattr(self, name)]:
                raise ValueError(f"{idle[0]}: nobody replies to anything; give `prompts`")
            if self.text is None and not self.benchmarks:
                raise ValueError("what are they compared by? Give `prompts`, `text` or `benchmarks`")
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
        further = [metric.name for metric in self.metrics] + [f"{benchmark.name}/*" for benchmark in self.benchmarks]
        measured = MEASURED if self.prompts is not None else ("nll", "perplexity")
        sided = [reward.name for reward in self.rewards if direction(reward) is not None]
        rates = (f"{name}{WIN_RATE}" for name in (*sided, *(judge.name for judge in self.judges)))
        return frozenset({*measured, *names(self.rewards), *further, *rates}.difference(unread))

    def check(self, ctx: Context) -> dict[str, Any]:
        from align.evals.clusters import clusters

        asked = self._asked(ctx)[0]
        prompts, belongs = len(asked), clusters(asked, self.cluster)
        if prompts < 2 and self.prompts is not None:
            raise CheckError(f"a comparison needs at least 2 prompts, and hundreds to tell much; there is {prompts}")
        if len(set(belongs.values())) == 1:
            raise CheckError("a comparison needs at least 2 clusters of prompts, and hundreds to tell much; there is 1")
        replies, pairs = prompts * self.sampling.n, len(self.policies) * (len(self.policies) - 1) // 2
        figures = {"prompts": prompts, "replies": replies * len(self.policies)} if prompts else {}
        figures |= {"clusters": len(set(belongs.values()))} if belongs else {}
        figures |= {"judged": replies * pairs * len(self.judges)} if self.judges else {}
        figures |= {"documents": self._documents(ctx)} if self.benchmarks else {}
        return figures | ({"texts": len(read(ctx, self.text, Text))} if self.text is not None else {})

    def run(self, ctx: Context) -> dict[str, float]:
        from align.evals.examining import keep
        from align.evals.markdown import markdown
        from align.evals.measuring import panel

        rewards = [load(reward, ctx) for reward in self.rewards]
        asked, notes = self._questions(ctx, rewards)
        made = panel(ctx, self.policies, self.base or self.policies[0], asked)
        found = self._found(ctx, asked, made, notes)
        for sentence in found["notes"]:
            ctx.note(sentence)
        for name, samples in made.samples.items():
            write(samples, ctx.out / "replies" / f"{name}.jsonl")
        for name, rows in made.documents.items():
            keep(rows, ctx.out / "benchmarks" / f"{name}.jsonl")
        (ctx.out / "comparison.json").write_text(json.dumps(found, indent=1) + "\n")
        (ctx.out / "comparison.md").write_text(markdown(found))
        metrics = {f"{name}/{m}": v["value"] for name, values in found["policies"].items() for m, v in values.items()}
        first = self.policies[0].name
        rates = (rate for rate in found["win_rates"] if rate["baseline"] == first)
        return metrics | {f"{rate['policy']}/{rate['metric']}{WIN_RATE}": rate["rate"] for rate in rates}

    def _found(self, ctx: Context, asked: Questions, made: Panel, notes: list[str]) -> dict[str, Any]:
        """All sections of comparison.json."""
        from align.evals.best_of import curve
        from align.evals.compare import comparison
        from align.evals.contests import contests
        from align.evals.judging import add_judge

        directions: dict[str, Better] = {reward.name: reward.better for reward in asked.rewards}
        better: dict[str, Better] = {"nll": "lower", "perplexity": "lower", **directions, **made.better}
        better |= {metric.name: metric.better for metric in self.metrics}
        seed, clusters = seed_of(ctx.seed, "bootstrap"), asked.clusters
        settings, notes = self._settings(ctx, asked), notes + made.notes
        found = comparison(made.measures, better, settings, seed, made.tokenizers, self.worth, notes, clusters)
        found |= contests(made.samples, directions, seed, clusters)
        for judge in self.judges:
            worth = self.worth.get(judge.name)
            add_judge(ctx, judge, made.samples, found, seed_of(seed, judge.name), worth, clusters)
        if self.best_of:
            first = asked.rewards[0]
            found["best_of"] = {
                name: curve(
                    samples, list(directions), first.better, self.best_of, seed_of(seed, first.name), clusters
                )
                for name, samples in made.samples.items()
            }  # fmt: skip
        if self.brittleness:
            found["brittleness"] = made.brittleness
        return found

    def _settings(self, ctx: Context, asked: Questions) -> dict[str, Any]:
        made = self.sampling.model_dump() | {"prompts": len(asked.prompts)} if asked.prompts else {}
        made |= {"clusters": len(set(asked.clusters.values()))} if asked.clusters else {}
        made |= {"seed": ctx.seed, "templates": self.templates, "base": (self.base or self.policies[0]).name}
        return made | {f"benchmark {exam.benchmark.name}": exam.said for exam in asked.exams}

    def _questions(self, ctx: Context, rewards: Sequence[Reward]) -> tuple[Questions, list[str]]:
        """What everybody is asked, and what is to be said of that."""
        from align.evals.clusters import clusters, hint
        from align.evals.examining import exams
        from align.evals.measuring import Questions

        prompts, left_out = self._asked(ctx)
        texts = read(ctx, self.text, Text) if self.text is not None else []
        transformed, said = self._transformed(ctx, prompts)
        made = Questions(
            prompts, self.sampling, rewards, self.metrics, texts, self.text_tokens, transformed, self._readers(ctx),
            exams(self.benchmarks, ctx.base), self.max_too_long, clusters(prompts, self.cluster),
        )  # fmt: skip
        return made, list(filter(None, [*left_out, *said, hint(prompts, self.cluster)]))

    def _transformed(
        self, ctx: Context, prompts: Sequence[Prompt]
    ) -> tuple[dict[str, list[tuple[Prompt, Prompt]]], list[str]]:
        """Transformation -> the prompts that it changes, before and after, which are kept for people to read; and what
        is to be said of those that it could not change."""
        made: dict[str, list[tuple[Prompt, Prompt]]] = {}
        said, seed = [], seed_of(ctx.seed, "brittleness")
        for wanted in self.brittleness:
            if isinstance(wanted, Paraphrase):
                made[wanted.name], left_out = paraphrased(ctx, wanted, prompts, seed)
                said.append(told(wanted.name, left_out, len(prompts)))
            else:
                made[wanted] = transformed(prompts, wanted, seed)
        for name, pairs in made.items():
            rows = (replace(new, extra={"original": old.prompt[-1].content}) for old, new in pairs)
            write(rows, ctx.out / "prompts" / f"{name}.jsonl")
        return made, said

    def _documents(self, ctx: Context) -> int:
        """How many documents of benchmarks are asked about in all. Raises CheckError if one is for nobody here."""
        from align.evals.examining import exams, rehearsed, unable

        asked = 0
        for exam in exams(self.benchmarks, ctx.base):
            counts = [rehearsed(ctx, policy, exam) for policy in self.policies]
            if not any(counts):
                why = unable(ctx, self.policies[0], exam)
                raise CheckError(f"benchmark {exam.benchmark.name!r} is for nobody here: {self.policies[0]}: {why}")
            asked += sum(counts)
        return asked

    def _readers(self, ctx: Context) -> list[Reader]:
        """Everybody with weights who reads the prompts, the base and reward models among them."""
        from align.evals.fitting import has_weights, readers

        policies: list[Reference] = [*self.policies]
        if self.base is not None and self.base not in policies:
            policies.append(self.base)
        reading = readers(ctx, [policy for policy in policies if has_weights(ctx, policy)], ())
        self._check_templates({reader.name: reader.seen.contract.template for reader in reading})
        return reading + readers(ctx, (), self.rewards)

    def _asked(self, ctx: Context) -> tuple[list[Prompt], list[str]]:
        """The prompts that every policy, the base among them, can answer and every reward model can read, and what is
        to be said of the others."""
        from align.evals.evaluate import questions
        from align.evals.fitting import fitting
        from align.evals.ready import Ready, is_ready

        if self.prompts is None:
            self._readers(ctx)  # they must agree all the same
            return [], []
        prompts, left_out = fitting(
            questions(ctx, self.prompts), self._readers(ctx), self.sampling.max_new_tokens, self.max_too_long
        )
        if prompts:
            rehearse(self.rewards, ctx, prompts[0])
        for contestant in self.policies:
            if is_ready(ctx, contestant):
                Ready(ctx, contestant).answers(prompts, self.sampling, 0)
        return prompts, [left_out] if left_out else []

    def _check_templates(self, templates: dict[str, str]) -> None:
        for name, template in templates.items() if self.templates == "same" else ():
            first = next(iter(templates))
            if template != templates[first]:
                raise CheckError(
                    f"{name!r} was made with another chat template than {first!r}; with `templates: own` each is "
                    "asked in its own"
                )
