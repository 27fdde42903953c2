"""From contestants and prompts to all that was measured of them: replies, scores, metrics, likelihoods, brittleness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from align.config import Sampling
from align.errors import CheckError
from align.evals.compare import paired
from align.evals.evaluate import Answers, Subject, scored
from align.evals.examining import Examined, examined, unable
from align.evals.fitting import Reader, fitting, has_weights
from align.evals.metrics import descriptions, per_count, scores
from align.evals.ready import Ready, is_ready
from align.evals.registry import MetricSpec
from align.evals.statistics import Measure
from align.records import Prompt, Sample, Text
from align.rewards.base import Better, Reward
from align.stage import Context, Reference, seed_of

if TYPE_CHECKING:
    from align.evals.harness.tasks import Exam, Row

ANSWERS = "answers"
"""The role of the seed that replies are drawn with."""


@dataclass(frozen=True)
class Questions:
    """What everybody is asked, and how replies are measured."""

    prompts: Sequence[Prompt]
    sampling: Sampling
    rewards: Sequence[Reward] = ()
    metrics: Sequence[MetricSpec] = ()
    texts: Sequence[Text] = ()
    text_tokens: int = 512
    brittleness: Mapping[str, Sequence[tuple[Prompt, Prompt]]] = field(default_factory=dict)
    """Transformation -> each prompt that it changes, as it was and as it is then."""
    readers: Sequence[Reader] = ()
    """Those who must have room for a transformed prompt."""
    exams: Sequence[Exam] = ()
    """Benchmarks."""
    max_too_long: float = 0.1
    """The share of a benchmark's documents that may have no room."""
    clusters: Mapping[str, str] = field(default_factory=dict)
    """Prompt -> what it belongs to, where not all stand alone."""


@dataclass(frozen=True)
class Panel:
    """What was found out about each contestant, by its name."""

    answers: dict[str, Answers] = field(default_factory=dict)
    measures: dict[str, dict[str, Measure]] = field(default_factory=dict)
    tokenizers: dict[str, str] = field(default_factory=dict)
    brittleness: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    better: dict[str, Better] = field(default_factory=dict)
    """Of metrics that bring their own side: those of benchmarks."""
    documents: dict[str, list[Row]] = field(default_factory=dict)
    """What became of the documents of benchmarks."""
    notes: list[str] = field(default_factory=list)

    @property
    def samples(self) -> dict[str, list[Sample]]:
        return {name: made.samples for name, made in self.answers.items()}


def panel(ctx: Context, contestants: Sequence[Reference], base: Reference, asked: Questions) -> Panel:
    """Everything about everybody, one model in memory at a time; KL is that to `base`."""
    made = Panel()
    for reference in contestants:
        subject = Ready(ctx, reference) if is_ready(ctx, reference) else Subject(ctx, reference)
        name = subject.name
        made.tokenizers[name], made.measures[name] = subject.tokenizer, {}
        if asked.prompts:
            answers = scored(subject.answers(asked.prompts, asked.sampling, seed_of(ctx.seed, ANSWERS)), asked.rewards)
            made.answers[name] = answers
            made.measures[name] = measured(answers.samples, asked.rewards, asked.metrics)
            made.notes.extend(f"{name}: {what}" for what in _unlike(subject, answers.samples, asked))
        if asked.texts and isinstance(subject, Subject) and subject.weights:
            made.measures[name]["nll"] = subject.nll(asked.texts, asked.text_tokens)
        elif asked.texts:
            made.notes.append(f"nll of {name} is not measured: only its replies are known")
        if asked.brittleness and isinstance(subject, Subject):
            made.brittleness[name] = brittleness(subject, asked, made.measures[name])
        elif asked.brittleness:
            made.notes.append(f"brittleness of {name} is not measured: its answers are to these prompts only")
        for exam in asked.exams:
            if why := unable(ctx, reference, exam):
                made.notes.append(f"{exam.benchmark.name} of {name} is not measured: {why}")
            elif isinstance(subject, Subject):
                _add(made, name, examined(subject, exam, asked.max_too_long))
        subject.release()
    if made.answers:
        add_kl(ctx, base, asked.sampling, made)
    return made


def _add(made: Panel, name: str, found: Examined) -> None:
    made.measures[name] |= found.measures
    made.better.update(found.better)
    made.documents.setdefault(name, []).extend(found.rows)
    made.notes.extend(note for note in found.notes if note not in made.notes)


def _unlike(subject: Subject | Ready, samples: Sequence[Sample], asked: Questions) -> list[str]:
    """What sets a contestant's replies apart from those that everybody was asked for."""
    said, wanted = [subject.remark(asked.sampling)], asked.sampling.n * len(asked.prompts)
    if len(samples) < wanted:
        said.append(f"{len(samples)} replies instead of {wanted}; repeated words weigh less where there are fewer")
    if refused := sum(sample.finish == "refused" for sample in samples):
        said.append(f"{refused} of {len(samples)} replies were refused by its server, and count as empty ones")
    return list(filter(None, said))


def measured(samples: Sequence[Sample], rewards: Sequence[Reward], metrics: Sequence[MetricSpec]) -> dict[str, Measure]:
    """Each reward's mean, what describes replies, and the further metrics that have something to say."""
    further = {metric.name: metric(samples) for metric in metrics}
    made = scores(samples, [reward.name for reward in rewards]) | descriptions(samples)
    made |= {name: measure for name, measure in further.items() if measure is not None}
    for name, measure in made.items():
        _finite(name, measure)
    return made


def _finite(name: str, measure: Measure) -> None:
    """Raises CheckError where a metric is no number for some prompt, which would spoil every mean without a word."""
    wrong = np.flatnonzero(~np.isfinite(measure.total) | ~np.isfinite(measure.count))
    if len(wrong):
        value = measure.total[wrong[0]]
        raise CheckError(
            f"metric {name!r} is {value} for {len(wrong)} of {len(measure.ids)} prompts, such as "
            f"{measure.ids[wrong[0]]}: a metric gives a number, or leaves prompts out of its Measure"
        )


def brittleness(subject: Subject, asked: Questions, before: Mapping[str, Measure]) -> dict[str, dict[str, Any]]:
    """transformation -> metric -> the paired difference to `before` on the prompts that the transformation changes.

    Replies are scored as answers to the original prompt: what the question was has not changed.
    """
    seed = seed_of(subject.ctx.seed, "brittleness")
    found: dict[str, dict[str, Any]] = {}
    for name, pairs in asked.brittleness.items():
        fit, _ = fitting([new for _, new in pairs], asked.readers, asked.sampling.max_new_tokens, limit=1.0)
        original = {new.prompt: old for old, new in pairs}
        if len(fit) < 2:
            found[name] = {}
            continue
        made = subject.answers(fit, asked.sampling, seed_of(subject.ctx.seed, ANSWERS))
        back = [replace(s, prompt=original[s.prompt].prompt) for s in made.samples]
        after = measured(scored(replace(made, samples=back), asked.rewards).samples, asked.rewards, asked.metrics)
        gaps = {
            m: paired(after[m].within(asked.clusters), before[m].within(asked.clusters), seed_of(seed, m))[0]
            for m in after if m in before
        }  # fmt: skip
        found[name] = {
            metric: {k: v for k, v in asdict(gap).items() if k in ("difference", "low", "high", "n")}
            for metric, gap in gaps.items() if gap is not None
        }  # fmt: skip
    return found


def add_kl(ctx: Context, base: Reference, sampling: Sampling, made: Panel) -> None:
    """KL to the base, in nats a token: what a policy says of its own tokens minus what the base says of them."""
    if not sampling.temperature or sampling.top_p < 1 or sampling.top_k:
        why = "greedy and truncated decoding do not draw from the policy's own distribution"
    else:
        why = "" if has_weights(ctx, base) else f"of {base.name} only replies are known"
    if why:
        made.notes.append(f"kl is not measured: {why}")
        return
    subject = Subject(ctx, base)
    for name, answers in made.answers.items():
        if name == base.name:
            continue
        if not answers.ids:
            made.notes.append(f"kl of {name} is not measured: only its replies are known")
        elif made.tokenizers[name] != subject.tokenizer:
            made.notes.append(f"kl of {name} is not measured: {base.name} has another tokenizer")
        else:
            theirs = subject.logps(answers, sampling.temperature)
            ratios = [s.logp - logp for s, logp in zip(answers.samples, theirs, strict=True)]
            made.measures[name]["kl"] = per_count(answers.samples, ratios, [s.tokens for s in answers.samples])
