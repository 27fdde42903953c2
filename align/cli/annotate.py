"""The verb annotate: people vote on replies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from align.cli import text
from align.cli.options import StoreFolder, store_at
from align.config import Data
from align.errors import RecipeError, StoreError
from align.store import Store

if TYPE_CHECKING:
    from align.web.desk import Desk
    from align.web.items import Item
    from align.web.results import Outcome

Ties = Annotated[Literal["drop", "soft"], typer.Option(help="Pairs that come out even: left out, or label 0.5.")]
VotesFolder = Annotated[Path | None, typer.Option(metavar="DIR", help="Where votes are kept; annotations/NAME.")]
Port = Annotated[int, typer.Option(min=0, max=65535, show_default=False, help="Of the page; any free one.")]
Opened = Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")]


def annotate(
    source: Annotated[
        str,
        typer.Argument(metavar="RECORDS|COMPARISON", help="A file, a hub name, or an artifact; a comparison's folder."),
    ],
    replies: Annotated[int, typer.Option(min=1, help="At most so many replies a prompt, drawn by the seed.")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many prompts.")] = None,
    ties: Ties = "drop",
    seed: Annotated[int, typer.Option(help="Decides who sees what in which order.")] = 0,
    out: VotesFolder = None,
    port: Port = 0,
    opened: Opened = True,
    store: StoreFolder = None,
) -> None:
    """Let people choose between replies, rank them, or write better ones, blind, on a local page.

    Their votes become preferences and demonstrations, which `reward_model`, `dpo` and `sft` read.

    Example: align annotate quickstart/result --limit 100
    """
    from align.web.desk import Poll
    from align.web.items import at_most
    from align.web.results import Outcome
    from align.web.votes import Log

    found = _items(store_at(store), source)
    items = [at_most(item, replies, seed) for item in found]
    alike = sum(map(_alike, items))
    items = [item for item in items if not _alike(item)][:limit]
    if not items:
        raise RecipeError(f"{source}: nothing to vote on: all replies to each of {len(found)} prompts are the same")
    console = Console(highlight=False)
    if alike:
        console.print(f"left out, because all replies are the same: {alike:,} of {len(found):,} prompts")
    fewer = sum(len(item.replies) > replies for item in found)
    if fewer:
        console.print(
            f"{fewer:,} of {len(found):,} prompts have more than {replies} replies; --replies shows more of them"
        )
    folder = out or Path("annotations") / text.joined(source)
    log = Log(folder / "votes.jsonl")
    vote_on_page(Poll(items, log, seed), Outcome(log, folder, ties), port, opened, console)


def vote_on_page(desk: Desk, outcome: Outcome, port: int, opened: bool, console: Console) -> None:
    """Serves the page until it is interrupted, then says what the votes came to."""
    from align.web.serve import serve

    def ready(address: str) -> None:
        outcome.export()
        console.print(Text(address, style="bold"), soft_wrap=True)
        console.print(f"votes: {text.place(desk.log.path)}   Ctrl-C ends", style="dim", soft_wrap=True)
        if opened:
            typer.launch(address)

    serve(desk, outcome, port, ready)
    show(outcome, console)
    desk.log.close()


def show(outcome: Outcome, console: Console) -> None:
    """Prints what the votes come to, and the lines of a recipe that read them."""
    if not outcome.log.standing():
        return
    found = outcome.conclude()
    people = ", ".join(f"{name} {counts['votes']:,}" for name, counts in found["annotators"].items())
    lines = [f"\nvotes: {people}"]
    if agreed := found["agreement"]:
        value = "is undefined, all votes being alike" if agreed["value"] is None else f"{agreed['value']:.2f}"
        within = "" if agreed["clusters"] is None else f" in {agreed['clusters']} clusters"
        lines.append(f"{agreed['measure']} {value}, n = {agreed['n']}{within}")
    for row in found["win_rates"]:
        bounds = f" [{row['low']:.1%}, {row['high']:.1%}]" if "low" in row else ""
        lines.append(f"{row['policy']} preferred over {row['baseline']}: {row['rate']:.1%}{bounds}, n = {row['n']}")
    counts = f"{found['preferences']:,} preferences, {found['demonstrations']:,} demonstrations"
    even = "left out" if outcome.ties == "drop" else "with label 0.5"
    lines.append(counts + (f"; {found['even']:,} even pairs {even}" if found["even"] else ""))
    console.print(Text("\n".join([*lines, "", outcome.entries()])), soft_wrap=True)


def _alike(item: Item) -> bool:
    """Whether all gave the same reply, so that there is nothing to choose."""
    return len(item.replies) == 1 and len(item.replies[0].sources) > 1


def _items(store: Store, source: str) -> list[Item]:
    """What is voted on: of a comparison, its replies; else of records."""
    from align.data import load, read_file
    from align.web.items import items_of, items_of_comparison

    if (Path(source) / "comparison.json").is_file():
        return items_of_comparison(Path(source))
    try:
        made = store.get(source)
    except StoreError:
        return items_of(load(Data(path=source), 0, Path.cwd()))
    if made.kind == "records":
        return items_of(read_file(made.path / "records.jsonl"))
    if not (made.path / "comparison.json").is_file():
        raise RecipeError(f"{source}: a {made.kind}; people vote on records, or on the replies of a comparison")
    return items_of_comparison(made.path)
