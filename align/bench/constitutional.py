"""Critique and revision, and feedback by principles, timed as a whole and where a model writes or chooses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from align.bench.arithmetic import Lengths, Questions, Shape, useful
from align.bench.clock import Clock
from align.bench.timed import TimedGenerator
from align.bench.workload import words
from align.config import Sampling
from align.constitution import Principle
from align.generate.base import Generator
from align.generate.critique import Reviser
from align.generate.feedback import Judge, Pair
from align.records import Message, Prompt

PRINCIPLES, REQUEST, ANSWER = 4, 32, 64
"""Principles by which each pair is judged, words of what they ask, most tokens of each answer."""
ROOM = 3 * ANSWER + 2 * REQUEST + 64
"""Tokens that a transcript, or a question but for its replies, may need beside the prompt; the last for templates."""

Phases = dict[str, tuple[float, int]]
"""Seconds and useful operations of each part of a task."""


def principles(vocabulary: int, seed: int) -> list[Principle]:
    """Principles of random words."""
    chance = np.random.default_rng([seed, 2])
    asked = [[words(chance.integers(6, vocabulary, REQUEST)) for _ in range(3)] for _ in range(PRINCIPLES)]
    return [Principle(name=str(i), critique=c, revision=r, question=q) for i, (c, r, q) in enumerate(asked)]


def revise(
    generator: Generator, prompts: Sequence[Prompt], held_to: Sequence[Principle], shape: Shape, clock: Clock, seed: int
) -> tuple[list[Lengths], Phases]:
    """Writes a reply, a critique and a revision to each prompt. A transcript is one sequence, each token read once."""
    timed = TimedGenerator(generator, Clock(clock.device))
    reviser = Reviser(timed, timed, held_to, 1, Sampling(max_new_tokens=ANSWER), (), seed, lambda done, total: None)
    with clock.running():
        reviser(prompts)
    whole, written = Counter[Message](), Counter[Message]()
    for asked, answer in timed.written:
        first = asked[0]  # is the prompt, in all that is asked about it
        written[first] += len(answer.ids)
        whole[first] = max(whole[first], len(timed.prompt(asked)) + len(answer.ids))
    rows = [Lengths(whole[p.prompt[0]] - written[p.prompt[0]], (written[p.prompt[0]],)) for p in prompts]
    return rows, {"critique_revise.generation": (timed.clock.seconds, useful("critique_revise", shape, rows))}


def judge(
    generator: Generator, pairs: Sequence[Pair], held_to: Sequence[Principle], shape: Shape, clock: Clock, seed: int
) -> tuple[list[Questions], Phases]:
    """Says which reply of each pair is better, by every principle and in both orders."""
    timed = TimedGenerator(generator, Clock(clock.device))
    asker = Judge(timed, held_to, PRINCIPLES, None, (0.0, 1.0), seed, lambda done, total: None)
    with clock.running():
        asker(pairs)
    asked = [timed.prompt(question) for question in timed.asked]
    each = len(asked) // len(pairs)
    rows = [Questions.of(asked[i : i + each]) for i in range(0, len(asked), each)]
    return rows, {"ai_feedback.choices": (timed.clock.seconds, useful("ai_feedback", shape, rows))}
