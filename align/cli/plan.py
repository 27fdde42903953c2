"""The verb plan: what a run would do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from align import recipe as recipes
from align import runner
from align.cli import text
from align.cli.display import note_line
from align.cli.options import Fresh, Only, Overrides, RecipeName, Smoke, Until, with_machine
from align.machine import Machine
from align.runner import Plan, Step
from align.store import Store

MARKS = {
    "cached": ("✓", "green"),
    "run": ("▸", "cyan"),
    "pending": ("…", "cyan"),
    "skipped": ("-", "yellow"),
    "blocked": ("‖", "yellow"),
}


@with_machine
def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    until: Until = None,
    only: Only = None,
    fresh: Fresh = None,
    check: Annotated[bool, typer.Option("--check", help="Run every stage's pre-flight and show its figures.")] = False,
    smoke: Smoke = False,
    *,
    settings: Machine,
) -> None:
    """Show the graph of a recipe: what is there already, what will run, and why.

    Example: align plan quickstart dpo.beta=0.2 --check
    """
    loaded, store, console = recipes.load(recipe, overrides or (), smoke=smoke), Store(settings.store), Console()
    show(runner.plan(loaded, store, until=until, only=only, fresh=fresh or ()), console)
    if check:
        outcome = runner.check(
            loaded, store, settings, until=until, only=only, fresh=fresh or (), emit=_checked(console)
        )
        raise typer.Exit(outcome.exit_code)


def show(plan: Plan, console: Console) -> None:
    """Prints a plan: one row a stage with its inputs, then what should make people look twice."""
    recipe = plan.recipe
    title = Text.assemble((recipe.name, "bold"), (f"  seed {recipe.seed}  {text.place(recipe.file)}", "dim"))
    console.print(title, soft_wrap=True)
    table = Table.grid(padding=(0, 2, 0, 0))
    for column in range(4):
        table.add_column(no_wrap=column < 3)
    table.add_column(ratio=1)
    blocked: dict[str, str] = {}
    for step in plan.steps:
        first = blocked.setdefault(step.why, step.stage) if step.state == "blocked" else step.stage
        table.add_row(*_cells(plan, step, like=first if first != step.stage else ""))
    console.print(table)
    for warning in _warnings(plan):
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
    for result in (result for loop in recipe.loops.values() for result in loop.results):
        if decided := plan.decided(result):
            console.print(Text(decided, style="dim"), soft_wrap=True)
    states = Counter(step.state for step in plan.steps)
    skipped = f", {states['skipped']} skipped" if states["skipped"] else ""
    console.print(Text(f"{len(plan.to_run)} to run, {states['cached']} cached{skipped}", style="dim"))


def _checked(console: Console) -> Callable[[dict[str, Any]], None]:
    """Prints what each check found, as it comes."""

    def emit(event: dict[str, Any]) -> None:
        stage = event.get("stage", "")
        match event["event"]:
            case "stage_checked" if event["pending"]:
                found = f"needs the result of {event['pending']!r} first; checked again before it runs"
                console.print(Text.assemble((f"{stage}: ", "bold"), (found, "dim")))
            case "stage_checked":
                found = text.metrics(event["figures"], limit=len(event["figures"])) or "fine"
                console.print(Text.assemble((f"{stage}: ", "bold"), found), soft_wrap=True)
            case "stage_failed":
                console.print(Text(f"{stage}: {event['error']}", style="red"), soft_wrap=True)
            case "note":
                console.print(Text(note_line(stage, event["level"], event["text"]), style="dim"), soft_wrap=True)

    return emit


def _cells(plan: Plan, step: Step, like: str) -> Iterator[Text]:
    """A row of the table. like: the stage whose row has said the same of why it is blocked."""
    mark, style = MARKS[step.state]
    inputs = dict.fromkeys(plan.recipe.inputs(step.stage).values())
    yield Text(mark, style=style)
    yield Text(step.stage, style="bold" if step.state != "cached" else "")
    yield Text(step.type, style="dim")
    yield Text(f"<- {', '.join(inputs)}" if inputs else "", style="dim")
    why = f"{step.state}, like {like}" if like else f"{step.state}: {step.why}"
    yield Text(why, style="" if step.state != "cached" else "dim")


def _warnings(plan: Plan) -> Iterator[str]:
    yield from map(str, plan.recipe.warnings)
    yield from (f"{step.stage}: {step.warning}" for step in plan.steps if step.warning)
