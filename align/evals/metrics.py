"""What is measured of a policy's replies beside rewards. Each metric is a `Measure`: a number a prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import numpy as np

from align.evals.statistics import Measure
from align.records import Sample, prompt_id


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


def distinct(samples: Sequence[Sample], n: int) -> Measure:
    """Distinct word n-grams among all replies, divided by all n-grams (distinct-n, arXiv:1510.03055).

    Each occurrence of an n-gram that occurs c times adds 1/c, so prompts share what they have in common and the sum
    over prompts is the number of distinct ones; the interval takes these frequencies as given. It falls as replies
    grow longer, whoever writes them, and where one reply is given to every prompt.
    """
    grams = [_ngrams(sample.reply.split(), n) for sample in samples]
    found = Counter(gram for reply in grams for gram in reply)
    return per_count(samples, [sum(1 / found[g] for g in reply) for reply in grams], [len(reply) for reply in grams])


def descriptions(samples: Sequence[Sample]) -> dict[str, Measure]:
    """How long replies are, how varied, and how many ended by themselves."""
    columns: dict[str, Callable[[Sample], float]] = {
        "tokens": lambda s: s.tokens,
        "words": lambda s: len(s.reply.split()),
        "stop": lambda s: s.finish == "stop",
    }
    measures = {name: per_prompt(samples, [value(s) for s in samples]) for name, value in columns.items()}
    return measures | {f"distinct-{n}": distinct(samples, n) for n in (1, 2)}


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def _groups(samples: Sequence[Sample]) -> tuple[tuple[str, ...], list[list[int]]]:
    """Each prompt, known by what was asked, in the order of the samples, and which samples answer it."""
    grouped = [(asked, list(group)) for asked, group in groupby(range(len(samples)), key=lambda i: samples[i].prompt)]
    return tuple(prompt_id(asked) for asked, _ in grouped), [group for _, group in grouped]
