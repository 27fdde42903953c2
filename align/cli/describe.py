"""Verbs about what there is: stages, and the schema of recipes."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from align import registry
from align.cli.schema import Entry, entries, recipe_schema
from align.data import formats
from align.recipe.loops import Group as Repeated
from align.rewards.base import REWARDS
from align.stage import Stage
from align.stages.loop_gate import Limit
from align.train.fields import Training
from align.train.online_fields import Online

NAME_WIDTH = 26
"""Columns that a field's name gets; the last part of a longer one stands in a line of its own."""


def stages(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A stage, or loop, formats or rewards.")] = None,
) -> None:
    """List the stages, or explain one: its inputs, fields and defaults. Also explains loops and lists row formats and
    reward rules.

    Example: align stages dpo
    """
    lists = {None: _stages, "formats": _formats, "rewards": _rewards, "loop": _loop}
    Console().print(lists[name]() if name in lists else _explain(registry.stage(str(name))))


def schema() -> None:
    """Print the JSON Schema of recipes, for completion and checks in an editor.

    Example: align schema > recipe.schema.json

    Then begin a recipe with this line, which VS Code's YAML extension (and others) read:
    [dim]# yaml-language-server: $schema=recipe.schema.json[/dim]
    """
    print(json.dumps(recipe_schema(), indent=2))


def _stages() -> Table:
    return _table(("stage", "makes", ""), ((n, made.makes, summary(made)) for n, made in registry.stages().items()))


def _formats() -> Table:
    rows = ((f.name, ", ".join(f.needs), f.makes.__name__, summary(f.read)) for f in formats.FORMATS.values())
    return _table(("format", "columns", "makes", ""), rows)


def _rewards() -> Table:
    rules = ((name, REWARDS[name]) for name in REWARDS.names())
    return _table(("rule", "better", ""), ((n, rule.better or "", summary(rule.function)) for n, rule in rules))


def _loop() -> Group:
    title = Text.assemble(("loop", "bold"), ("  an entry of `stages:` with `rounds`", "dim"))
    about, limits = (Text(inspect.cleandoc(made.__doc__ or "")) for made in (Repeated, Limit))
    return Group(title, Text(), about, Text(), Text("gate", style="bold"), limits, Text(), _fields(entries(Repeated)))


def _table(columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    for name, *rest in rows:
        table.add_row(Text(name, style="bold"), *map(Text, rest))
    return table


def summary(documented: object) -> str:
    """The first sentence of a docstring."""
    first = (inspect.getdoc(documented) or "").split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<!\beq)\.\s", first)[0].rstrip(".") + "." if first else ""


def _explain(made: type[Stage]) -> Group:
    found = list(entries(made))
    if issubclass(made, (Training, Online)):
        usual = f"{made.usual_lr:g}, or {10 * made.usual_lr:g} with LoRA"
        found = [replace(entry, default=usual) if entry.path == "optim.lr" else entry for entry in found]
    parts = [Text.assemble((made.name, "bold"), (f"  makes {made.makes}", "dim")), Text()]
    parts += [Text(inspect.cleandoc(made.__doc__ or "")), Text()]
    for title, chosen in (
        ("inputs", [e for e in found if e.reference]),
        ("fields", [e for e in found if not e.reference]),
    ):
        if chosen:
            parts += [Text(title, style="bold"), _fields(chosen), Text()]
    return Group(*parts[:-1])


def _fields(found: Iterable[Entry]) -> Table:
    table = Table.grid(padding=(0, 2, 1, 0))
    table.add_column(max_width=NAME_WIDTH, overflow="fold")
    table.add_column(ratio=1)
    for entry in found:
        given = Text("required", style="yellow") if entry.required else Text(f"default {entry.default}", style="dim")
        head = Text.assemble((entry.type, "cyan"), "  ", given)
        table.add_row(Text(_name(entry.path)), Group(head, Text(entry.doc)))
    return table


def _name(path: str) -> str:
    block, _, field = path.rpartition(".")
    return f"  {block}\n   .{field}" if block and len(path) + 2 > NAME_WIDTH else f"  {path}"
