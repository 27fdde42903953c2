"""Feedback: a model says which of two replies keeps a principle better (section 4 of arXiv:2212.08073, RLAIF).

It is asked in both orders, by several principles, and answers with probabilities. What is the same in both orders is
its opinion; what turns with the order is its liking for a letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import combinations
from math import isnan, nan
from typing import Any

import numpy as np

from align.config import Sampling
from align.constitution import (
    LETTERS,
    Principle,
    asked_to_compare,
    asked_to_conclude,
    asked_to_decide,
    asked_to_reason,
    conclusion,
    drawn,
)
from align.evals.statistics import Measure, interval
from align.generate.base import Completion, Generator, Progress
from align.records import Messages, prompt_id
from align.stage import seed_of

Pair = tuple[Messages, str, str]
"""A prompt and two replies to it."""


@dataclass(frozen=True)
class Judge:
    """Says how likely it is that the first reply of a pair is the better one."""

    generator: Generator
    principles: Sequence[Principle]
    count: int
    """Principles that are drawn for each pair."""
    reasoning: Sampling | None
    """How thoughts before the answer are drawn; None: it answers at once."""
    clamp: tuple[float, float]
    """Probabilities after reasoning are kept within this: a model that has argued for a reply is too sure of it."""
    seed: int
    progress: Progress
    examples: Messages = ()
    """Turns before every question: pairs with the answers that they should get."""
    written: bool = False
    """Whether thoughts end with the answer, which is read from there."""

    def __call__(self, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
        """For each pair: by principle, `[p, p]`, the probability that its first reply is better, asked in both orders.

        None stands for an answer that could not be read. Where the judge reasons, its `thoughts` stand beside them in
        the same order, and `cut` says how many of them ended at the token limit.
        """
        asked = [
            (i, principle, turned)
            for i, (prompt, first, second) in enumerate(pairs)
            for principle in drawn(self.principles, seed_of(self.seed, prompt_id(prompt), first, second))[: self.count]
            for turned in (False, True)
        ]
        said = self._answers([(_turned(pairs[i], turned), principle) for i, principle, turned in asked])
        thinking = {} if self.reasoning is None else {"thoughts": {}, "cut": 0}
        rows: list[dict[str, Any]] = [{"principles": {}} | deepcopy(thinking) for _ in pairs]
        for (i, principle, turned), (p, thought) in zip(asked, said, strict=True):
            p = p if p is None else 1 - p if turned else p
            rows[i]["principles"].setdefault(principle.name, []).append(p)
            if thought is not None:
                rows[i]["thoughts"].setdefault(principle.name, []).append(thought.text.strip())
                rows[i]["cut"] += thought.finish == "length"
        return rows

    def _answers(self, asked: list[tuple[Pair, Principle]]) -> list[tuple[float | None, Completion | None]]:
        """How likely A is in each question, None where nothing could be read, and the thoughts before it."""
        if self.reasoning is None:
            found = self._chosen([(*self.examples, *asked_to_compare(*pair, principle)) for pair, principle in asked])
            return [(p, None) for p in found]
        ask = asked_to_conclude if self.written else asked_to_reason
        questions = [(*self.examples, *ask(*pair, principle)) for pair, principle in asked]
        thoughts = self.generator.generate(questions, self.reasoning, seed_of(self.seed, "thoughts"), self.progress)
        if self.written:
            return [(conclusion(thought.text), thought) for thought in thoughts]
        told = [i for i, thought in enumerate(thoughts) if thought.finish != "refused"]
        decide = [asked_to_decide(questions[i], thoughts[i].text.strip() or "...") for i in told]
        found = dict(zip(told, self._chosen(decide), strict=True))
        low, high = self.clamp
        clamped = {i: None if p is None else min(max(p, low), high) for i, p in found.items()}
        return [(clamped.get(i), thought) for i, thought in enumerate(thoughts)]

    def _chosen(self, questions: list[Messages]) -> list[float | None]:
        """The probability of A."""
        made = np.exp(self.generator.choose(questions, LETTERS, self.progress)[:, 0]) if questions else []
        return [None if isnan(p) else float(p) for p in made]


def _turned(pair: Pair, turned: bool) -> Pair:
    prompt, first, second = pair
    return (prompt, second, first) if turned else pair


def label(row: dict[str, Any]) -> float:
    """The probability that the first reply is better: the mean over orders and over the principles read in both."""
    read = [(p, q) for p, q in row["principles"].values() if p is not None and q is not None]
    return sum(p + q for p, q in read) / (2 * len(read)) if read else nan


def reliability(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What the answers say about the judge.

    `unreadable`: share of questions. `position_bias`: mean probability of A, minus a half. `order_agreement`: share of
    pairs of which it prefers the same reply in both orders. `consistency`, with its 95 % interval: the same, weighted
    by how sure it was, the correlation of f and b about 0 where f and b are the two orders' probabilities minus a half;
    1 is one opinion in both orders, 0 no opinion, -1 always the same letter. `principle_agreement`: how often two
    principles prefer the same reply. `label_entropy`: of the labels, in nats; ln 2 = 0.693 is no opinion.
    """
    asked = [p for row in rows for both in row["principles"].values() for p in both]
    read = [both for row in rows for both in row["principles"].values() if None not in both]
    told = {"unreadable": sum(p is None for p in asked) / max(len(asked), 1)}
    labels = np.array([p for row in rows if not isnan(p := label(row))])
    if not len(labels):
        return told
    forward, backward = np.array([_by_order(row) for row in rows if not isnan(label(row))]).T
    told |= {
        "position_bias": float(np.mean([(p + 1 - q) / 2 for p, q in read])) - 0.5,
        "order_agreement": float((forward * backward > 0).mean()),
        "label_entropy": float(np.mean([_entropy(p) for p in labels])),
    }  # fmt: skip
    if forward.any() or backward.any():
        ids = tuple(map(str, range(len(labels))))
        found = interval(Measure(ids, forward * backward, (forward**2 + backward**2) / 2), seed=0)
        told |= {"consistency": found.value, "consistency_low": found.low, "consistency_high": found.high}
    votes = [_votes(row) for row in rows]
    agreed = [(a > 0) == (b > 0) for of in votes for a, b in combinations(of, 2)]
    return told | ({"principle_agreement": sum(agreed) / len(agreed)} if agreed else {})


def _by_order(row: dict[str, Any]) -> tuple[float, float]:
    """The probability that the first reply is better, minus a half, in each order, over all principles."""
    forward, backward = np.array([both for both in row["principles"].values() if None not in both]).mean(axis=0) - 0.5
    return float(forward), float(backward)


def _votes(row: dict[str, Any]) -> list[float]:
    return [(p + q) / 2 - 0.5 for p, q in row["principles"].values() if p is not None and q is not None]


def _entropy(p: float) -> float:
    return -sum(q * float(np.log(q)) for q in (p, 1 - p) if q > 0)
