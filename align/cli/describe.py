"""Verbs about what there is: stages, and the schema of recipes."""

from __future__ import annotations

import inspect
import json
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from align import registry
from align.cli.schema import Entry, entries, recipe_schema
from align.stage import Stage

NAME_WIDTH = 24
"""Columns that a field's name gets before its description is moved to the right."""


def stages(name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One of the stages.")] = None) -> None:
    """List the stages, or explain one: what it makes, its inputs, its fields with their defaults.

    Example: align stages dpo
    """
    console = Console()
    console.print(_explain(registry.stage(name)) if name else _list())


def schema() -> None:
    """Print the JSON Schema of recipes, for completion and checks in an editor.

    Example: align schema > recipe.schema.json

    Then begin a recipe with this line, which VS Code's YAML extension (and others) read:
    [dim]# yaml-language-server: $schema=recipe.schema.json[/dim]
    """
    print(json.dumps(recipe_schema(), indent=2))


def _list() -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "makes", ""):
        table.add_column(column)
    for name, made in registry.stages().items():
        table.add_row(Text(name, style="bold"), made.makes, summary(made))
    return table


def summary(made: type[Stage]) -> str:
    """The first sentence of a stage's docstring."""
    first = inspect.cleandoc(made.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return first.split(". ")[0].rstrip(".") + "." if first else ""


def _explain(made: type[Stage]) -> Group:
    found = list(entries(made))
    parts = [Text.assemble((made.name, "bold"), (f"  makes {made.makes}", "dim")), Text()]
    parts += [Text(inspect.cleandoc(made.__doc__ or "")), Text()]
    for title, chosen in (
        ("inputs", [e for e in found if e.reference]),
        ("fields", [e for e in found if not e.reference]),
    ):
        if chosen:
            parts += [Text(title, style="bold"), _fields(chosen), Text()]
    return Group(*parts[:-1])


def _fields(found: list[Entry]) -> Table:
    table = Table.grid(padding=(0, 2, 1, 0))
    table.add_column(no_wrap=True, max_width=NAME_WIDTH, overflow="fold")
    table.add_column(ratio=1)
    for entry in found:
        given = Text("required", style="yellow") if entry.required else Text(f"default {entry.default}", style="dim")
        head = Text.assemble((entry.type, "cyan"), "  ", given)
        table.add_row(Text(f"  {entry.path}"), Group(head, Text(entry.doc)))
    return table
