"""Verbs about data: show rows as a model sees them, check files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from align import recipe as recipes
from align.cli import text
from align.cli.options import Overrides, RecipeName, StoreFolder, store_at
from align.cli.records import first
from align.config import Data
from align.data.checks import Check, Overlap
from align.data.checks import check as check_files
from align.data.files import read_file
from align.errors import RecipeError, suggestion
from align.machine import machine
from align.plan import plan
from align.recipe import Recipe
from align.records import Record
from align.stage import Context
from align.store import Store

if TYPE_CHECKING:
    from align.data.show import Shown, Span
    from align.train.fields import Training

STYLES = {"prompt": "cyan", "supervised": "green", "ignored": "dim"}
EXAMPLES = 5
"""Kinds of bad rows that are shown."""

app = typer.Typer(
    help="Look at data: rows as a model sees them, what is wrong with a file.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def show(
    recipe: RecipeName,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="A stage that trains, or one that makes records.")],
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(min=1, help="How many rows.")] = 3,
    store: StoreFolder = None,
) -> None:
    """Show rows as a stage trains on them: tokens of the prompt, supervised ones, ignored ones, and what was dropped.

    Of a stage that made records, show these: conversations, critiques and revisions, the votes of a judge.

    Example: align data show quickstart sft --rows 2
    """
    loaded, console = recipes.load(recipe, overrides or ()), Console()
    if stage in loaded.stages and loaded.stages[stage].makes == "records":
        console.print(*first(_made(loaded, stage, store_at(store)), rows), sep="\n", soft_wrap=True)
        return
    chosen = _training(loaded, stage)
    context = _context(loaded, stage, store_at(store), console)
    from align.data.show import shown
    from align.train.session import records_for, trees_for

    chat = chosen.preview(context).chat
    records, _ = records_for(context, chosen)
    trees = trees_for(context, chosen, chat, records)
    console.print(Text.assemble(*((f"{part}  ", style) for part, style in STYLES.items())))
    for row in shown(islice(trees, rows), chat):
        console.print(*_row(row), sep="\n", soft_wrap=True)
    lengths = sorted(tree.length() for tree in trees)
    console.print(
        f"\n{len(trees):,} of {len(records):,} rows; tokens: {sum(lengths):,} in all, median "
        f"{lengths[len(lengths) // 2]}, longest {lengths[-1]}"
    )


@app.command()
def check(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A file, a folder of files, or a hub name.")],
    format: Annotated[str | None, typer.Option(help="Name of the row format; none means: recognise it.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub dataset.")] = None,
    member: Annotated[str | None, typer.Option(help="File inside a zip.")] = None,
    encoding: Annotated[str, typer.Option(help="Text encoding.")] = "utf-8",
) -> None:
    """Check data: its format, bad rows, duplicates, length bias, prompts that files of a folder share.

    Example: align data check prefs.jsonl
    """
    spec = Data(path=path, format=format, split=split, member=member, encoding=encoding)
    checks, overlaps = check_files(spec, Path.cwd())
    console = Console(highlight=False)
    for found in checks:
        console.print(*_checked(found), sep="\n", soft_wrap=True)
    for overlap in overlaps:
        console.print(_overlap(overlap), soft_wrap=True)
    if any(found.bad for found in checks):
        raise typer.Exit(1)


def _made(recipe: Recipe, name: str, store: Store) -> Iterator[Record]:
    """The records that a stage has made."""
    found = store.find(plan(recipe, store).keys[name].value)
    if found is None:
        raise RecipeError(f"{name} has not run: align run {text.place(recipe.file)} --until {name}")
    return read_file(found.path / "records.jsonl")


def _training(recipe: Recipe, name: str) -> Training:
    from align.train.fields import Training

    trains = {n: s for n, s in recipe.stages.items() if isinstance(s, Training)}
    if name not in trains:
        known = [*trains, *(n for n, s in recipe.stages.items() if s.makes == "records")]
        what = "that trains or makes records"
        raise RecipeError(f"no stage of {recipe.name} {what} is called {name!r}.{suggestion(name, known)}")
    return trains[name]


def _context(recipe: Recipe, name: str, store: Store, console: Console) -> Context:
    known = plan(recipe, store)
    keys, inputs = known.keys, {}
    for wanted in recipe.inputs(name).values():
        meant = known.meaning(wanted)
        found = recipe.models.get(meant) or recipe.data.get(meant) or store.find(keys[meant].value)
        if found is None:
            raise RecipeError(
                f"{name} needs the result of {wanted!r}: align run {text.place(recipe.file)} --until {wanted}"
            )
        inputs[wanted] = found
    work = store.work(keys[name].value)
    return Context(
        stage=name, type=recipe.stages[name].name, key=keys[name].value, seed=recipe.seed, base=recipe.base,
        inputs=inputs, keys={wanted: keys[wanted].value for wanted in inputs}, store=store, machine=machine(),
        work=work, out=work / "out", emit=lambda event, **values: console.print(Text(values["text"], style="yellow")),
    )  # fmt: skip


def _row(row: Shown) -> Iterator[Text]:
    numbers = f"  {text.metrics(row.numbers)}" if row.numbers else ""
    yield Text(f"\n{row.id}: {row.tokens} tokens, {row.prompt.tokens} of them prompt{numbers}", style="bold")
    yield _span(row.prompt)
    for number, reply in enumerate(row.replies):
        label = f"reply {number + 1}: " if len(row.replies) > 1 else ""
        yield Text.assemble((label, "bold"), *map(_span, reply))


def _span(span: Span) -> Text:
    return Text(span.text, style=STYLES[span.part])


def _checked(found: Check) -> Iterator[Text]:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.records.items())
    yield Text.assemble(
        (text.place(found.name), "bold"), f": format {found.format or 'unknown'}, {found.rows:,} rows: {kinds}"
    )
    if found.words:
        words = ", ".join(f"{name} {text.number(value)}" for name, value in found.words.items())
        yield Text(f"  {found.prompts:,} different prompts; words of replies: {words}")
    if found.duplicates:
        yield Text(f"  {found.duplicates:,} duplicates: deduplicate: true keeps one of each", style="yellow")
    if bias := found.length_bias:
        apart = not bias.low <= 0.5 <= bias.high
        yield Text(
            f"  the chosen reply is the longer one in {bias.longer:.1%} [{bias.low:.1%}, {bias.high:.1%}] of pairs "
            f"({text.number(bias.chosen_words)} against {text.number(bias.rejected_words)} words)",
            style="yellow" if apart else "",
        )
    if found.bad:
        yield Text(f"  {found.bad:,} bad rows, the first at {text.place(found.first_bad or '')}", style="red")
        for error, count in list(found.errors.items())[:EXAMPLES]:
            yield Text(f"    {count:,}: {error}", style="red")


def _overlap(overlap: Overlap) -> Text:
    share = f"{overlap.shared:,} prompts ({overlap.share:.1%} of the smaller)"
    return Text(f"{text.place(overlap.first)} and {text.place(overlap.second)} share {share}", style="yellow")
