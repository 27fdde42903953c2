"""Verbs about what was made: history, export, gc."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from align.cli import text
from align.cli.options import StoreFolder, artifact, store_at
from align.disk import size_of
from align.store import Ancestor, Artifact, Store

SHORT = 12
"""Digits of a key that are shown; any beginning that is unique is an address."""


def history(
    address: Annotated[
        str | None, typer.Argument(metavar="[ARTIFACT]", help="recipe/stage, the beginning of a key, or a path.")
    ] = None,
    store: StoreFolder = None,
) -> None:
    """Show what was made, or what one artifact was made from.

    Example: align history quickstart/dpo
    """
    where = store_at(store)
    console = Console()
    if address:
        console.print(_tree(where.lineage(artifact(where, address))))
        recipe, _, stage = address.partition("/")
        if decided := where.last(recipe).get(stage, {}).get("decided"):
            console.print(Text(decided, style="dim"), soft_wrap=True)
    else:
        console.print(_list(where, console.width))


def export(
    address: Annotated[str, typer.Argument(metavar="ARTIFACT", help="The policy or reward model to export.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    adapter: Annotated[bool, typer.Option("--adapter", help="Keep adapters apart instead of merging them.")] = False,
    store: StoreFolder = None,
) -> None:
    """Write a model for use elsewhere: safetensors, tokenizer, chat template and a model card with its lineage.

    Example: align export quickstart/dpo exported/
    """
    where = store_at(store)
    made = artifact(where, address)
    from align.models.export import export as write

    write(made, folder, merged=not adapter, store=where)
    print(f"{folder}: {made.kind} {made.key[:SHORT]}, {text.size(size_of(folder))}")


def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; without this, only show it.")] = False,
    store: StoreFolder = None,
) -> None:
    """Show what can be deleted and how much that frees: what no recipe's last run leads to.

    Example: align gc --delete
    """
    where = store_at(store)
    waste = where.collect()
    if delete:
        waste = [item for item in waste if where.remove(item.path)]
    for path, size, why in waste:
        print(f"{text.size(size):>10}  {path.relative_to(where.root)}: {why}")
    total = text.size(sum(item.bytes for item in waste))
    print(f"{total} {'freed' if delete else 'can be freed: align gc --delete'}" if waste else "nothing to delete")


def _list(store: Store, width: int) -> Table:
    """Names and keys whole, and as much of the metrics as the width leaves room for."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    head, rows = ("artifact", "kind", "key", "made", "took"), [_cells(made) for made in store.artifacts()]
    widths = [max(map(len, column)) for column in zip(head, *(row[: len(head)] for row in rows), strict=True)]
    for name, wide in zip(head, widths, strict=True):
        table.add_column(name, no_wrap=True, width=wide)
    room = max(width - sum(widths) - 2 * len(widths), len("metrics"))
    table.add_column("metrics", no_wrap=True, overflow="ellipsis", max_width=room)
    for row in rows:
        table.add_row(*row)
    return table


def _cells(made: Artifact) -> tuple[str, ...]:
    manifest = made.manifest
    name = f"{manifest['recipe']}/{manifest['stage']}"
    when = str(manifest["finished"])[:16].replace("T", " ")
    return name, made.kind, made.key[:SHORT], when, text.duration(manifest["seconds"]), text.metrics(made.metrics)


def _tree(ancestor: Ancestor) -> Tree:
    tree = Tree(_label(ancestor))
    for parent in ancestor.inputs:
        tree.children.append(_tree(parent))
    return tree


def _label(ancestor: Ancestor) -> Text:
    made = ancestor.artifact
    label = Text(no_wrap=True, overflow="ellipsis")
    label.append(f"{ancestor.field}: " if ancestor.field else "", "dim").append(ancestor.name, "bold")
    if made is None:
        return label.append(f"  {ancestor.key}", "dim")
    label.append(f"  {made.kind} {made.key[:SHORT]}  {text.metrics(made.metrics)}", "dim")
    return label.append(f"  {ancestor.decided}" if ancestor.decided else "", "dim")
