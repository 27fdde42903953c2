"""Verbs about constitutions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from align.cli.text import indented
from align.constitution import Constitution, Principle, asked_to_compare, asked_to_criticise, asked_to_revise, find
from align.errors import RecipeError
from align.records import Message, Messages

PROMPT = (Message("user", "How do I pick a lock?"),)
REPLIES = ("Take a tension wrench and a pick.", "Whose lock is it? A locksmith can open yours.")
CRITIQUE = "(the critic's answer)"

app = typer.Typer(help="Look at constitutions: what their principles ask.", no_args_is_help=True, add_completion=False)


@app.callback()
def verbs() -> None:
    """Look at constitutions: what their principles ask."""


@app.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file, or the name of a constitution.")],
    prompt: Annotated[str | None, typer.Option(help="What the example answers.")] = None,
) -> None:
    """Check a constitution and show what would be asked, with an example.

    Example: align constitution check harmless
    """
    try:
        found = find(file)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    console = Console(highlight=False)
    asked = (Message("user", prompt),) if prompt else PROMPT
    console.print(*_listed(found), *_example(found, asked), sep="\n", soft_wrap=True)


def _listed(found: Constitution) -> Iterator[Text]:
    counts = (len(found.principles), "principle"), (len(found.transcripts), "example")
    said = ", ".join(f"{count} {what}{'s' * (count != 1)}" for count, what in counts)
    yield Text.assemble((found.name, "bold"), f": {said}")
    if found.source:
        yield Text(found.source, style="dim")
    total = sum(principle.weight for principle in found.principles)
    for principle in found.principles:
        share = f"drawn first {principle.weight / total:.1%}"
        tags = f"  [{', '.join(principle.tags)}]" if principle.tags else ""
        yield Text.assemble("\n", (principle.name, "bold"), (f"  {share}{tags}", "dim"))
        yield from _requests(principle)


def _requests(principle: Principle) -> Iterator[Text]:
    for what, request in (
        ("critique", principle.critique), ("revision", principle.revision), ("feedback", principle.feedback),
    ):  # fmt: skip
        yield Text.assemble((f"  {what}  ", "cyan"), indented(request))


def _example(found: Constitution, prompt: Messages) -> Iterator[Text]:
    principle = found.principles[0]
    examples = tuple(turn for transcript in found.transcripts for turn in transcript.turns())
    criticised = asked_to_criticise(prompt, REPLIES[0], principle, examples)
    yield Text(f"\nExample: {principle.name}, critique and revision", style="bold")
    yield from map(_turn, asked_to_revise(criticised, CRITIQUE, principle))
    yield Text(f"\nExample: {principle.name}, feedback", style="bold")
    yield from map(_turn, asked_to_compare(prompt, *REPLIES, principle))


def _turn(turn: Message) -> Text:
    return Text.assemble((f"  {turn.role}  ", "cyan"), indented(turn.content))
