"""What is measured of a policy's replies beside rewards. Each metric is a `Measure`: a number a prompt.

`align.evals.registry` says how to add one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np

from align.errors import CheckError
from align.evals.best_of import best_of_weights
from align.evals.registry import metric
from align.evals.statistics import Measure
from align.records import Messages, Sample, prompt_id


def per_prompt(samples: Sequence[Sample], values: Sequence[float]) -> Measure:
    """Mean over prompts of the mean over a prompt's replies."""
    ids, groups = _groups(samples)
    return Measure.of_means(ids, np.array([np.mean([values[i] for i in group]) for group in groups]))


def scores(samples: Sequence[Sample], names: Iterable[str]) -> dict[str, Measure]:
    """Each reward's mean over the prompts it scored; a reward that scored none is left out."""
    scored = {name: [s for s in samples if name in s.scores] for name in names}
    return {name: per_prompt(kept, [s.scores[name] for s in kept]) for name, kept in scored.items() if kept}


def per_count(samples: Sequence[Sample], totals: Sequence[float], counts: Sequence[float]) -> Measure:
    """Sum over all replies of `totals`, divided by that of `counts`."""
    ids, groups = _groups(samples)
    sums = [[sum(values[i] for i in group) for group in groups] for values in (totals, counts)]
    return Measure(ids, *np.array(sums, float))


@metric("tokens")
def tokens(samples: Sequence[Sample]) -> Measure | None:
    """Tokens a reply, the stop id included, where they were counted."""
    return per_prompt(samples, [s.tokens for s in samples]) if _counted(samples) else None


@metric("words")
def words(samples: Sequence[Sample]) -> Measure:
    """Words a reply, split at blanks."""
    return per_prompt(samples, [len(s.reply.split()) for s in samples])


@metric("stop")
def stop(samples: Sequence[Sample]) -> Measure | None:
    """The share of replies that ended by themselves, where tokens were counted."""
    return per_prompt(samples, [s.finish == "stop" for s in samples]) if _counted(samples) else None


@metric("truncated", better="lower")
def truncated(samples: Sequence[Sample]) -> Measure | None:
    """The share of replies that were cut at the token limit, where tokens were counted."""
    return per_prompt(samples, [s.finish == "length" for s in samples]) if _counted(samples) else None


@metric("distinct")
def distinct(samples: Sequence[Sample], n: int = 1) -> Measure:
    """Distinct word n-grams among all replies, divided by all n-grams (distinct-n, arXiv:1510.03055).

    Each occurrence of an n-gram that occurs c times adds 1/c, so prompts share what they have in common and the sum
    over prompts is the number of distinct ones; the interval takes these frequencies as given. It falls as replies
    grow longer, whoever writes them, and where one reply is given to every prompt.
    """
    grams = [_ngrams(sample.reply.split(), n) for sample in samples]
    found = Counter(gram for reply in grams for gram in reply)
    return per_count(samples, [sum(1 / found[g] for g in reply) for reply in grams], [len(reply) for reply in grams])


@metric("self_repetition", better="lower")
def self_repetition(samples: Sequence[Sample], n: int = 4) -> Measure:
    """The share of replies with a word n-gram that occurs in a reply to another prompt too (after arXiv:2210.07929):
    phrases that a policy says whatever it is asked."""
    grams = [set(_ngrams(sample.reply.lower().split(), n)) for sample in samples]
    prompts: dict[tuple[str, ...], set[Messages]] = defaultdict(set)
    for sample, reply in zip(samples, grams, strict=True):
        for gram in reply:
            prompts[gram].add(sample.prompt)
    return per_prompt(samples, [any(len(prompts[gram]) > 1 for gram in reply) for reply in grams])


@metric("pass_at", better="higher")
def pass_at(samples: Sequence[Sample], reward: str, k: int) -> Measure | None:
    """The chance that one of k replies is right by a reward of 0 or 1, estimated without bias from n >= k replies a
    prompt (pass@k, eq. 1 of arXiv:2107.03374)."""
    scored = [s for s in samples if reward in s.scores]
    ids, groups = _groups(scored)
    if not ids:
        return None
    right = [np.array([scored[i].scores[reward] for i in group], float) for group in groups]
    if not all(np.isin(of_prompt, (0, 1)).all() for of_prompt in right):
        raise CheckError(f"pass_at: {reward!r} has scores other than 0 and 1")
    if (fewest := min(map(len, right))) < k:
        raise CheckError(f"pass_at: k is {k}, and a prompt has {fewest} replies; raise sampling.n")
    return Measure.of_means(ids, np.array([best_of_weights(of_prompt, k) @ of_prompt for of_prompt in right]))


def descriptions(samples: Sequence[Sample]) -> dict[str, Measure]:
    """How long replies are, how varied, and how many ended by themselves."""
    made = {m.name: m(samples) for m in (tokens, words, stop)} | {
        f"distinct-{n}": distinct(samples, n=n) for n in (1, 2)
    }
    return {name: measure for name, measure in made.items() if measure is not None}


def _counted(samples: Sequence[Sample]) -> bool:
    return all(sample.tokens for sample in samples if sample.reply)


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def _groups(samples: Sequence[Sample]) -> tuple[tuple[str, ...], list[list[int]]]:
    """Each prompt, known by what was asked, in the order of the samples, and which samples answer it."""
    grouped = [(asked, list(group)) for asked, group in groupby(range(len(samples)), key=lambda i: samples[i].prompt)]
    return tuple(prompt_id(asked) for asked, _ in grouped), [group for _, group in grouped]
