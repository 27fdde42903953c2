"""The verb new: a commented recipe to start from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from align.errors import Problem, RecipeError

STARTER = Path(__file__).with_name("starter.yaml")


def new(name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the recipe.")]) -> None:
    """Write recipes/NAME.yaml: a commented recipe for your own model and data.

    Example: align new assistant
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise RecipeError([Problem(name, "a recipe's name is letters, digits, dots, dashes and underscores")])
    file = Path("recipes") / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    try:
        with open(file, "x") as made:
            made.write(STARTER.read_text().replace("NAME", name))
    except FileExistsError:
        raise RecipeError([Problem("", "is there already; choose another name", file)]) from None
    print(f"{file} is ready. Name your model and data in it, then:\n")
    print(f"  align plan {name}           what would run")
    print(f"  align run {name} --smoke    prove it in a minute with tiny stand-ins")
    print(f"  align run {name}")
