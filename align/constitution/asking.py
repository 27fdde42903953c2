"""What a critic and a judge are asked: what requests have in common stands first, so that it is read once."""

from __future__ import annotations

from align.constitution.principles import Principle
from align.records import Message, Messages

LETTERS = ("A", "B")
"""The answers to a feedback question."""
DECIDE = "Answer with A or B."


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


def asked_to_decide(reasoned: Messages, thoughts: str) -> Messages:
    """The conversation that asks for the answer after those thoughts."""
    return (*reasoned, Message("assistant", thoughts), Message("user", DECIDE))


def _comparison(prompt: Messages, first: str, second: str, principle: Principle) -> str:
    said = "\n\n".join(f"{turn.role.capitalize()}: {turn.content.strip()}" for turn in prompt)
    replies = "\n\n".join(f"({letter}) {text.strip()}" for letter, text in zip(LETTERS, (first, second), strict=True))
    return f"Compare two replies.\n\n{said}\n\n{replies}\n\n{principle.feedback}"
