"""Which prompts belong together, so that their answers are no independent observations.

Two prompts are one cluster where one goes on from the other: its messages are the beginning of the other's, as turns of
one conversation are when each is asked for by itself. Prompts that have only their few-shot examples or their system
message in common are not. Where a row says itself what it belongs to, `cluster: COLUMN` takes its word: a conversation,
a document that many questions are about, a tree of messages. Both hold together, and what is linked over several steps
is one cluster, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from align.errors import CheckError, suggestion
from align.records import Messages, Prompt, prompt_id

USUAL = (
    "conversation_id", "conversation", "conv_id", "dialogue_id", "dialog_id", "thread_id", "message_tree_id", "group",
    "group_id", "document_id",
)  # fmt: skip
"""What such a column is often called."""


def clusters(prompts: Sequence[Prompt], column: str | None = None) -> dict[str, str]:
    """Id of each prompt's content -> id of the first prompt of its cluster; nothing where all stand alone.

    Raises CheckError where no prompt has the column.
    """
    if column is not None and not any(column in prompt.extra for prompt in prompts):
        known = list(dict.fromkeys(name for prompt in prompts for name in prompt.extra))
        raise CheckError(f"cluster: no prompt has a column {column!r}.{suggestion(column, known)}")
    forest = list(range(len(prompts)))
    for a, b in (*_continued([prompt.prompt for prompt in prompts]), *_alike(prompts, column)):
        first, second = sorted((_root(forest, a), _root(forest, b)))
        forest[second] = first
    ids = [prompt_id(prompt.prompt) for prompt in prompts]
    found = {id: ids[_root(forest, i)] for i, id in enumerate(ids)}
    return found if len(set(found.values())) < len(found) else {}


def places(prompts: Sequence[Messages]) -> np.ndarray:
    """(n,) the number of the cluster that each of some prompts belongs to; equal ones are in one."""
    ids = [prompt_id(asked) for asked in prompts]
    belongs = clusters([Prompt(id, asked) for id, asked in dict(zip(ids, prompts, strict=True)).items()])
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(belongs.get(id, id), len(numbers)) for id in ids], int)


def hint(prompts: Sequence[Prompt], column: str | None) -> str:
    """What to say of a column that looks as if it told clusters while nobody was told to read it."""
    for name in USUAL if column is None else ():
        values = [str(prompt.extra[name]) for prompt in prompts if name in prompt.extra]
        if 1 < len(set(values)) < len(values):
            return (
                f"{len(values)} prompts share {len(set(values))} values of {name!r}: if that is what they belong to, "
                f"say `cluster: {name}`, or intervals are too narrow"
            )
    return ""


def _continued(asked: Sequence[Messages]) -> Iterable[tuple[int, int]]:
    """Positions of two prompts of which the second goes on from the first."""
    place = {messages: i for i, messages in enumerate(asked)}
    for i, messages in enumerate(asked):
        yield from ((place[messages[:n]], i) for n in range(1, len(messages)) if messages[:n] in place)


def _alike(prompts: Sequence[Prompt], column: str | None) -> Iterable[tuple[int, int]]:
    first: dict[str, int] = {}
    for i, prompt in enumerate(prompts):
        if column in prompt.extra:
            yield first.setdefault(repr(prompt.extra[column]), i), i


def _root(forest: list[int], i: int) -> int:
    while forest[i] != i:
        forest[i] = i = forest[forest[i]]
    return i
