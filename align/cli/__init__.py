"""The command line: verbs only. Each module reads options, calls the library and prints; none decides anything.

A verb's module is imported when the verb is called, for all of them together take longer than most answers.

Exit codes: 0 done, 1 a stage failed, 2 the recipe or the command is wrong, 130 or 143 interrupted and resumable.
"""

from __future__ import annotations

import errno
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from align.errors import AlignError

VERBS: dict[str, dict[str, tuple[str, str]]] = {
    "Recipes": {
        "run": ("run", "Make what a recipe describes. Finished stages are reused, a stopped run goes on where it was."),
        "plan": ("plan", "Show the graph of a recipe: what is there already, what will run, and why."),
        "new": ("new", "Write recipes/NAME.yaml: a commented recipe for your own model and data."),
        "data": ("data", "Look at data: rows as a model sees them, what is wrong with a file."),
        "constitution": ("constitution", "Look at constitutions: what their principles ask."),
    },
    "Results": {
        "sample": ("sample", "Answer prompts with a policy."),
        "compare": (
            "compare", "Let policies answer the same prompts and compare them in pairs; the first is the base."
        ),
        "agreement": (
            "agreement", "Tell how far a reward agrees with people's labels of replies, and show where it does not."
        ),
        "report": ("page", "Write the page about a comparison: one HTML file that works offline."),
        "history": ("artifacts", "Show what was made, or what one artifact was made from."),
        "export": (
            "artifacts",
            "Write a model for use elsewhere: safetensors, tokenizer, chat template and a model card with its lineage.",
        ),
        "gc": (
            "artifacts", "Show what can be deleted and how much that frees: what no recipe's last run leads to."
        ),
    },
    "People": {
        "annotate": (
            "annotate", "Let people choose between replies, rank them, or write better ones, blind, on a local page."
        ),
        "chat": (
            "chat",
            "Talk to one policy or to two, blind, and keep what you vote: preferences and demonstrations, as from "
            "annotate.",
        ),
    },
    "Reference": {
        "stages": ("describe", "List the stages, or explain one: its inputs, fields and defaults."),
        "schema": ("describe", "Print the JSON Schema of recipes, for completion and checks in an editor."),
        "doctor": (
            "doctor",
            "Check the installation: versions, devices, speed, disk, and what is missing for which feature.",
        ),
        "bench": (
            "bench",
            "Measure stages on random rows: speed, memory, and the share of the machine's matrix rate that was useful.",
        ),
    },
}  # fmt: skip
"""Of each panel the verbs: the module that holds each, and its help in the list of all."""


OF_THE_MACHINE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)
"""Errors that whoever sits before the machine can help, and no line of ours: no permission, no room, no folder."""


class Verbs(TyperGroup):
    """The verbs, known by name and help; one is imported when it is called."""

    def __init__(self, **given: Any):
        super().__init__(**given)
        for panel, verbs in VERBS.items():
            for verb, (_, said) in verbs.items():
                self.add_command(TyperCommand(verb, help=said, rich_help_panel=panel))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        verb, _, rest = super().resolve_command(ctx, args)
        return verb, called(str(verb)), rest


def called(verb: str) -> Any:
    """The command of a verb, its module imported."""
    module = next(verbs[verb][0] for verbs in VERBS.values() if verb in verbs)
    found = getattr(import_module(f"align.cli.{module}"), "app" if verb in ("data", "constitution") else verb)
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(**_STYLE)
        alone.command(verb)(found)
        found = alone
    command = typer.main.get_command(found)
    command.name = verb
    return command


_STYLE: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": "rich",
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(cls=Verbs, no_args_is_help=True, **_STYLE)


@app.callback()
def align() -> None:
    """Recipes that take a language model through its alignment, and say how sure the result is."""


def main() -> None:
    """The command `align`."""
    try:
        app(prog_name="align")
    except AlignError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        print(f"{error.filename or 'disk'}: {error.strerror}. The store is --store, or ALIGN_STORE", file=sys.stderr)
        sys.exit(1)
