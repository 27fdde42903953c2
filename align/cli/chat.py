"""The verb chat: talk to one policy, or to two side by side."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from align.cli.annotate import Opened, Port, Ties, VotesFolder, show, vote_on_page
from align.cli.options import policy_source, server, with_machine
from align.cli.text import joined
from align.config import Sampling
from align.errors import AlignError, CheckError, RecipeError
from align.machine import Machine
from align.store import Store
from align.web.desk import Ballot, Chat

if TYPE_CHECKING:
    from align.generate.base import Generator
    from align.web.items import Item

TWO = "1, 2: that reply is better   =: equal   w1, w2 TEXT: what it should have been   s: skip   u: undo   new   /quit"
ONE = "/1: good as it is   /w TEXT: what it should have been   /u: undo   /new   /quit   or go on talking"


@with_machine
def chat(
    policies: Annotated[
        list[str],
        typer.Argument(metavar="A [B]", help="Artifacts, model folders, hub names, or servers (http://HOST/v1#MODEL)."),
    ],
    system: Annotated[str | None, typer.Option(help="System message of every conversation.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Nucleus mass.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where a reply is cut off.")] = 256,
    page: Annotated[bool, typer.Option("--page", help="Talk on a local page instead of here.")] = False,
    ties: Ties = "drop",
    seed: Annotated[int, typer.Option(help="The same seed and words give the same replies.")] = 0,
    out: VotesFolder = None,
    port: Port = 0,
    opened: Opened = True,
    *,
    settings: Machine,
) -> None:
    """Talk to one policy or to two, blind, and keep what you vote: preferences and demonstrations, as from annotate.

    With two, the conversation goes on with the reply that you prefer.

    Example: align chat quickstart/sft quickstart/dpo --page
    """
    if len(policies) > 2 or len(set(policies)) < len(policies):
        raise RecipeError(f"chat takes one policy or two different ones, found {' '.join(policies)}")
    from align.web.results import Outcome
    from align.web.votes import Log

    console = Console(highlight=False)
    contestants = {name: _generator(name, settings) for name in policies}
    folder = out or Path("annotations") / "-".join(["chat", *map(joined, policies)])
    sampling = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    desk = Chat(contestants, sampling, Log(folder / "votes.jsonl"), seed, system)
    if page:
        vote_on_page(desk, Outcome(desk.log, folder, ties), port, opened, console)
        return
    console.print(ONE if len(policies) == 1 else "/new begins another conversation, /quit ends", style="dim")
    _talk(desk, getpass.getuser(), console)
    show(Outcome(desk.log, folder, ties), console)
    desk.log.close()


def _generator(name: str, settings: Machine) -> Generator:
    store = Store(settings.store)
    if endpoint := server(name):
        from align.generate.endpoint import EndpointGenerator

        return EndpointGenerator(endpoint, store, endpoint.name)
    source = policy_source(store, name)
    from align.generate.hf import HFGenerator
    from align.models.policy import load_policy

    return HFGenerator(load_policy(source, store=store, device=settings.device), settings.sample_batch)


def _talk(desk: Chat, annotator: str, console: Console) -> None:
    """Reads lines until there are no more."""
    while True:
        item = desk.pending(annotator)
        if item is not None:
            _show(desk, annotator, item, console)
        try:
            line = console.input("[bold]> [/]").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line == "/quit":
            return
        try:
            _act(desk, annotator, item, line)
        except AlignError as error:
            console.print(Text(str(error), style="yellow"))
        except KeyboardInterrupt:
            console.print("\nstopped; Ctrl-C once more ends", style="dim")
        except Exception as error:  # of a library or the machine: the conversation so far must not be lost for it
            console.print(Text(f"{type(error).__name__}: {error}; nothing was kept of this line", style="red"))


def _act(desk: Chat, annotator: str, item: Item | None, line: str) -> None:
    """Does what a line says. While two replies wait for a vote everything is a command, and needs no slash."""
    two = item is not None and len(item.replies) == 2
    if not line or not (two or line.startswith("/")):
        if line:
            desk.say(annotator, line)
        return
    command, _, rest = line.removeprefix("/").partition(" ")
    if command == "new":
        desk.restart(annotator)
    elif command == "u":
        if desk.undo(annotator) is None:
            raise CheckError("there is nothing to undo")
    elif item is not None and command in (votes := _votes(two, rest)):
        desk.vote(Ballot(annotator=annotator, item=item.id, **votes[command]))
    else:
        raise CheckError(f"{line!r}: {TWO if two else ONE}")


def _votes(two: bool, written: str) -> dict[str, dict[str, Any]]:
    """Command -> what it says of the replies on the screen."""
    if not two:
        return {"1": {"ranks": (0,)}, "w": {"correction": written, "corrects": 0}}
    ranks = {"1": (0, 1), "2": (1, 0), "=": (0, 0), "s": None}
    written_over = {f"w{i + 1}": {"correction": written, "corrects": i} for i in (0, 1)}
    return {command: {"ranks": given} for command, given in ranks.items()} | written_over


def _show(desk: Chat, annotator: str, item: Item, console: Console) -> None:
    """The replies, side by side where there are two, and what can be done."""
    shown = [item.replies[i] for i in desk.shown(annotator, item)]
    texts = [Text("\n".join(m.content for m in reply.messages) + " ..." * reply.unfinished) for reply in shown]
    if len(texts) == 1:
        console.print(texts[0], style="cyan")
        if len(shown[0].sources) > 1:
            console.print("both say the same", style="dim")
        return
    table = Table.grid(expand=True, padding=(0, 1))
    for _ in texts:
        table.add_column(ratio=1)
    table.add_row(*(Panel(said, title=str(i + 1)) for i, said in enumerate(texts)))
    console.print(table)
    console.print(TWO, style="dim")
