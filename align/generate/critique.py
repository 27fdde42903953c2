"""Critique and revision: a reply is held to a principle and written again (section 3 of arXiv:2212.08073).

Every round is a conversation of its own: the prompt, the reply as it stands, a request for a critique, the critique, a
request for a revision, the revision, which is the reply that the next round begins with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from align.config import Sampling
from align.constitution import Principle, asked_to_criticise, asked_to_revise, drawn
from align.generate.base import Generator, Progress
from align.records import Messages, Prompt, prompt_id
from align.rewards.rules import words
from align.stage import seed_of

FAULTS = ("refused", "truncated", "empty", "leaking", "degenerate", "identical")
"""Why a revision is not imitated; of several reasons the first counts."""
QUOTED = 6
"""So many words in a row of a critique or a request, which were not in the reply before, are a leak."""
REPEATED = 0.5
"""A revision that says more than this share of its word triples again is degenerate."""
_LEAK = re.compile(
    r"\b(?:critiques?|revisions?)(?: ?requests?)?\s*:"
    r"|\bthe assistant's (?:last |previous |preceding |first )?(?:response|reply|answer)\b"
    r"|\b(?:my|the|your) (?:previous|last|original|initial|earlier|preceding) (?:response|reply|answer)\b"
    r"|\b(?:revised|rewritten) (?:response|reply|answer|version)\b"
    r"|\bhere(?: is|'s) (?:a|an|the|my) (?:revised|rewritten|improved|corrected|new)\b"
    r"|\b(?:the|this|your|that) critique\b"
)


@dataclass(frozen=True)
class Reviser:
    """Writes replies and improves them by principles."""

    writer: Generator
    critic: Generator
    principles: Sequence[Principle]
    revisions: int
    sampling: Sampling
    examples: Messages
    """Turns before the prompt when the critic is asked; finished examples of what it is to do."""
    seed: int
    progress: Progress

    def __call__(self, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        """Each prompt's transcript: `initial` with its finish reason, and `revisions`."""
        first = self._written(self.writer, [p.prompt for p in prompts], "reply")
        rows: list[dict[str, Any]] = [{"initial": {"reply": r, "finish": f}, "revisions": []} for r, f in first]
        orders = [drawn(self.principles, seed_of(self.seed, "principles", prompt_id(p.prompt))) for p in prompts]
        for turn in range(self.revisions):
            chosen = [order[turn % len(order)] for order in orders]
            self._revise(prompts, rows, chosen, turn)
        return rows

    def _revise(self, prompts: Sequence[Prompt], rows: list[dict[str, Any]], chosen: list[Principle], n: int) -> None:
        asked = [
            asked_to_criticise(prompt.prompt, last_reply(row), principle, self.examples)
            for prompt, row, principle in zip(prompts, rows, chosen, strict=True)
        ]
        critiques = self._written(self.critic, asked, f"critique {n}")
        wanted = [
            asked_to_revise(turns, critique, principle)
            for turns, (critique, _), principle in zip(asked, critiques, chosen, strict=True)
        ]
        revisions = self._written(self.critic, wanted, f"revision {n}")
        for row, principle, critique, revision in zip(rows, chosen, critiques, revisions, strict=True):
            names = ("principle", "critique", "critique_finish", "reply", "finish")
            row["revisions"].append(dict(zip(names, (principle.name, *critique, *revision), strict=True)))

    def _written(self, generator: Generator, asked: list[Messages], role: str) -> list[tuple[str, str]]:
        """(text, finish reason) of each answer. After an empty turn nothing is asked, and nothing said."""
        spoken = [turns for turns in asked if all(turn.content.strip() for turn in turns)]
        made = iter(generator.generate(spoken, self.sampling, seed_of(self.seed, role), self.progress))
        heard = {id(turns) for turns in spoken}
        return [(c.text, c.finish) if id(turns) in heard and (c := next(made)) else ("", "stop") for turns in asked]


def last_reply(row: dict[str, Any]) -> str:
    """The reply as it stands at the end of a transcript."""
    return (row["revisions"] or [row["initial"]])[-1]["reply"]


def fault(row: dict[str, Any], requests: Callable[[str], Principle]) -> str | None:
    """Why the last revision of a transcript is not to be imitated, one of FAULTS, or None.

    requests: the principle of a name.
    """
    last, before = row["revisions"][-1], row["initial"]["reply"]
    reply, principle = last["reply"], requests(last["principle"])
    found = {
        "refused": "refused" in (last["finish"], last["critique_finish"], row["initial"]["finish"]),
        "truncated": last["finish"] == "length",
        "empty": not reply.strip(),
        "leaking": leaks(reply, before, (last["critique"], principle.critique, principle.revision)),
        "degenerate": degenerate(reply),
        "identical": reply.strip() == before.strip(),
    }
    return next((name for name in FAULTS if found[name]), None)


def leaks(revision: str, before: str, said: Sequence[str]) -> bool:
    """Whether a revision speaks of its critique instead of answering, or quotes what was said about the reply.

    before: the reply that was criticised, whose own words are no leak. said: the critique and the requests.
    """
    if _told(revision) - _told(before):
        return True
    own, quoted = _runs(before), _runs(revision)
    return any((quoted & _runs(text)) - own for text in said)


def degenerate(reply: str) -> bool:
    """Whether a reply has no word, or says mostly the same again."""
    said = words(reply)
    triples = list(zip(said, said[1:], said[2:], strict=False))
    return not said or (bool(triples) and 1 - len(set(triples)) / len(triples) > REPEATED)


def _told(text: str) -> set[str]:
    return set(_LEAK.findall(text.lower().replace("\u2019", "'")))


def _runs(text: str) -> set[tuple[str, ...]]:
    said = words(text)
    return {tuple(said[i : i + QUOTED]) for i in range(len(said) - QUOTED + 1)}
