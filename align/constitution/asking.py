"""What a critic and a judge are asked: what requests have in common stands first, so that it is read once."""

from __future__ import annotations

import re

from align.constitution.principles import Principle
from align.records import Message, Messages

LETTERS = ("A", "B")
"""The answers to a feedback question."""
DECIDE = "Answer with A or B."
CONCLUDE = (
    "Think step by step, then end with your verdict: [[A]] if (A) is the better reply, [[B]] if (B) is, [[C]] if both "
    "are equally good."
)
"""The verdicts are those of MT-bench (arXiv:2306.05685)."""


def asked_to_criticise(prompt: Messages, reply: str, principle: Principle, examples: Messages = ()) -> Messages:
    """The conversation that asks for a critique of a reply: examples, prompt, reply, request."""
    rules, turns = (prompt[:1], prompt[1:]) if prompt and prompt[0].role == "system" else ((), prompt)
    return (*rules, *examples, *turns, Message("assistant", reply), Message("user", principle.critique))


def asked_to_revise(criticised: Messages, critique: str, principle: Principle) -> Messages:
    """The conversation that asks for a revision, which goes on from the one that asked for the critique."""
    return (*criticised, Message("assistant", critique), Message("user", principle.revision))


def asked_to_compare(prompt: Messages, first: str, second: str, principle: Principle) -> Messages:
    """The question which of two replies is better; its answer is one of `LETTERS`.

    What is judged stands before the principle, so that all questions about it begin with the same tokens.
    """
    return (Message("user", f"{_comparison(prompt, first, second, principle)} {DECIDE}"),)


def asked_to_reason(prompt: Messages, first: str, second: str, principle: Principle) -> Messages:
    """The same question to be thought about before it is answered."""
    return (Message("user", f"{_comparison(prompt, first, second, principle)} Think step by step; do not decide yet."),)


def asked_to_conclude(prompt: Messages, first: str, second: str, principle: Principle) -> Messages:
    """The same question, to be thought about and answered in one go; `conclusion` reads the answer."""
    return (Message("user", f"{_comparison(prompt, first, second, principle)} {CONCLUDE}"),)


def conclusion(text: str) -> float | None:
    """The last verdict that a text comes to: 1 for A, 0 for B, a half for a tie; None where there is none."""
    said = re.findall(r"\[\[([ABC])\]\]", text)
    return {"A": 1.0, "B": 0.0, "C": 0.5}[said[-1]] if said else None


def asked_to_decide(reasoned: Messages, thoughts: str) -> Messages:
    """The conversation that asks for the answer after those thoughts."""
    return (*reasoned, Message("assistant", thoughts), Message("user", DECIDE))


def _comparison(prompt: Messages, first: str, second: str, principle: Principle) -> str:
    said = "\n\n".join(f"{turn.role.capitalize()}: {turn.content.strip()}" for turn in prompt)
    replies = "\n\n".join(f"({letter}) {text.strip()}" for letter, text in zip(LETTERS, (first, second), strict=True))
    return f"Compare two replies.\n\n{said}\n\n{replies}\n\n{principle.feedback}"
