"""The command line: verbs only. Each module reads options, calls the library and prints; none decides anything.

Exit codes: 0 done, 1 a stage failed, 2 the recipe or the command is wrong, 130 or 143 interrupted and resumable.
"""

from __future__ import annotations

import sys

import typer

from align.cli import (
    annotate,
    artifacts,
    bench,
    chat,
    compare,
    constitution,
    data,
    describe,
    doctor,
    new,
    page,
    plan,
    run,
    sample,
)
from align.errors import AlignError

app = typer.Typer(
    help="Recipes that take a language model through its alignment, and say how sure the result is.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for panel, verbs in {
    "Recipes": (run.run, plan.plan, new.new),
    "Results": (sample.sample, compare.compare, page.report, artifacts.history, artifacts.export, artifacts.gc),
    "People": (annotate.annotate, chat.chat),
    "Reference": (describe.stages, describe.schema, doctor.doctor, bench.bench),
}.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)
app.add_typer(data.app, name="data", rich_help_panel="Recipes")
app.add_typer(constitution.app, name="constitution", rich_help_panel="Recipes")


def main() -> None:
    """The command `align`."""
    try:
        app(prog_name="align")
    except AlignError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
