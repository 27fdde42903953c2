"""Parts that row formats share: cells to text, numbers and messages, and records that are sure to say something."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from align.errors import DataError
from align.records import Demonstration, Message, Messages, Preference, Prompt, messages, prompt_id

Columns = Mapping[str, Any]


def user(content: Any) -> Message:
    return Message("user", text(content))


def assistant(content: Any) -> Message:
    return Message("assistant", text(content))


def text(content: Any) -> str:
    """Text of a cell: a string, or a list of text blocks as multimodal formats write them."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(block, Mapping) for block in content):
        other = [block.get("type") for block in content if block.get("type") != "text"]
        if other:
            raise DataError(f"a message has a block of type {other[0]!r}; only text can be used")
        return "".join(text(block.get("text", block.get("value"))) for block in content)
    raise DataError(f"expected text, found {content!r:.60}")


def turns(value: Any) -> Messages:
    """Messages from a list of turns with `role` and `content`, or with `from` and `value` as ShareGPT has them."""
    if not isinstance(value, list):
        raise DataError(f"expected a list of messages, found {value!r:.60}")
    made = []
    for turn in value:
        if isinstance(turn, Mapping) and "from" in turn:
            turn = {"role": SPEAKERS.get(turn["from"], turn["from"]), "content": turn.get("value")}
        if not isinstance(turn, Mapping) or "role" not in turn or "content" not in turn:
            raise DataError(f"a message needs 'role' and 'content', found {turn!r:.60}")
        made.append({"role": turn["role"], "content": text(turn["content"])})
    return messages(made)


SPEAKERS = {  # ShareGPT's and OpenAssistant's names of roles
    "human": "user", "user": "user", "prompter": "user", "system": "system", "gpt": "assistant", "chatgpt": "assistant",
    "bard": "assistant", "bing": "assistant", "model": "assistant", "assistant": "assistant", "tool": "tool",
    "observation": "tool", "function_response": "tool",
}  # fmt: skip


def conversation(value: Any, role: str) -> Messages:
    """Messages of a cell that holds text (one message of that role), one turn, or a list of turns."""
    if isinstance(value, str):
        return (Message(role, value),)
    return turns([value] if isinstance(value, Mapping) else value)


def system(row: Columns) -> Messages:
    """The message of an optional `system` column."""
    return (Message("system", text(row["system"])),) if row.get("system") else ()


def rest(row: Columns, *used: str) -> dict[str, Any]:
    """The columns that a format does not read: they travel in `extra`."""
    return {k: v for k, v in row.items() if k not in used}


def text_id(content: str) -> str:
    """The id of a raw text: sixteen hex digits of its content."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def demonstration(
    turns: Iterable[Message], extra: dict[str, Any], supervised: tuple[int, ...] | None = None
) -> Demonstration | Prompt:
    """A Demonstration without empty replies; a Prompt where nobody replied."""
    turns = tuple(turns)
    replies = [i for i, message in enumerate(turns) if message.role == "assistant"]
    if not replies:
        return prompt(turns, extra)
    if not all(turns[i].content.strip() for i in supervised or replies):
        raise DataError("not a Demonstration: a reply is empty")
    return Demonstration(prompt_id(turns[: (supervised or replies)[-1]]), turns, supervised, extra)


def prompt(turns: Messages, extra: dict[str, Any]) -> Prompt:
    """A Prompt, which must say something and must not end with the assistant."""
    if not turns or turns[-1].role == "assistant" or not turns[-1].content.strip():
        raise DataError("not a Prompt: it must end with a message that is not empty and not the assistant's")
    return Prompt(prompt_id(turns), turns, extra)


def preference(
    prompt: Messages, chosen: Messages, rejected: Messages, extra: dict[str, Any], margin: float | None = None,
    label: float = 1.0, weight: float = 1.0,
) -> Preference:  # fmt: skip
    """A Preference of two replies that differ and are not empty."""
    for name, reply in (("chosen", chosen), ("rejected", rejected)):
        if not reply or not reply[-1].content.strip():
            raise DataError(f"not a Preference: {name!r} is empty")
        if reply[-1].role != "assistant":
            raise DataError(f"not a Preference: {name!r} ends with a message of the {reply[-1].role}")
    if chosen == rejected:
        raise DataError("not a Preference: 'chosen' and 'rejected' are the same")
    return Preference(prompt_id(prompt), prompt, chosen, rejected, margin, label, weight, extra=extra)


def number(value: Any, name: str) -> float:
    """A cell as a number; bools and texts of numbers (csv) too."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"{name!r} is not a number: {value!r:.40}") from None
