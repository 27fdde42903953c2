"""The verb run."""

from __future__ import annotations

import sys
from collections import Counter

import typer
from rich.console import Console
from rich.text import Text

from align import recipe as recipes
from align import runner
from align.cli import report, text
from align.cli.display import Display, JsonLines, LiveTable, LogLines
from align.cli.options import AsJson, Fresh, Only, Overrides, RecipeName, Smoke, Until, with_machine
from align.machine import Machine
from align.store import Store

SAID = ("finished", "cached", "failed", "skipped", "interrupted")


@with_machine
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    until: Until = None,
    only: Only = None,
    fresh: Fresh = None,
    smoke: Smoke = False,
    as_json: AsJson = False,
    *,
    settings: Machine,
) -> None:
    """Make what a recipe describes. Finished stages are reused, a stopped run goes on where it was.

    Example: align run quickstart dpo.beta=0.2 --until dpo
    """
    loaded, store, console = recipes.load(recipe, overrides or (), smoke=smoke), Store(settings.store), Console()
    shown = display(as_json, console)
    for warning in loaded.warnings:
        shown({"event": "note", "level": "warning", "text": str(warning)})
    with shown:
        outcome = runner.run(loaded, store, settings, until=until, only=only, fresh=fresh or (), emit=shown)
    if not as_json:
        _summary(outcome, shown, store, console)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def display(as_json: bool, console: Console) -> Display:
    """The display that fits where the output goes."""
    if as_json:
        return JsonLines(sys.stdout)
    return LiveTable(console) if console.is_terminal else LogLines(console)


def _summary(outcome: runner.Outcome, shown: Display, store: Store, console: Console) -> None:
    where = store.root / outcome.plan.recipe.name
    for name, made in outcome.artifacts.items():
        if made.kind == "report":
            report.show(made.path, f"{outcome.plan.recipe.name}/{name}", console)
            if (made.path / "comparison.md").is_file():
                console.print(Text(f"in full: {where / name / 'comparison.md'}", style="dim"), soft_wrap=True)
    if outcome.report:
        console.print(Text(f"\nreport: {outcome.report}", style="bold"), soft_wrap=True)
    for name, error in outcome.errors.items():
        log = shown.progress.rows[name].log
        if isinstance(shown, LogLines) and not log and "\n" not in error:
            continue  # the line of a check that failed stands right above
        console.print(Text(f"\n{name} failed: {error}", style="red"), soft_wrap=True)
        if log:
            console.print(f"  log: {text.place(log)}", markup=False, highlight=False, soft_wrap=True)
    counts = Counter(outcome.states.values())
    said = ", ".join(f"{counts[state]} {state}" for state in SAID if counts[state])
    console.print(Text(f"\n{where}: {said}", style="bold"), soft_wrap=True)
    if outcome.signal:
        console.print("Stopped after a complete step; the same command goes on from there.")
