"""The verb report: the page about a comparison, made again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from align.cli.options import StoreFolder, artifact, store_at
from align.errors import RecipeError
from align.recipe import load
from align.store import Artifact, Store

if TYPE_CHECKING:
    from align.evals.report.material import Material


def report(
    address: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|COMPARISON",
            help="A recipe that was run, recipe/stage, the beginning of a key, or a folder with comparison.json.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where it goes; none means beside the recipe's results.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Every chart as PNG and its numbers as CSV, for papers.")
    ] = None,
    store: StoreFolder = None,
) -> None:
    """Write the page about a comparison: one HTML file that works offline.

    Example: align report quickstart --figures figures/
    """
    from align.evals.report.page import write

    material, beside = _found(store_at(store), address)
    file = out or beside
    write(material, file, figures)
    print(f"{file}" + (f", charts in {figures}" if figures else ""))


def _found(store: Store, address: str) -> tuple[Material, Path]:
    """What to report, and where its page goes unless told otherwise."""
    from align.evals.report.material import of_artifact, of_folder

    folder = Path(address)
    for recipe in _recipes(address):
        if (store.root / recipe / "last.json").is_file():
            return of_artifact(_last(store, recipe), store), store.root / recipe / "report.html"
    if folder.is_dir() and Artifact.at(folder.resolve()) is None:
        return of_folder(folder, folder.name), folder / "report.html"
    made = artifact(store, address)
    manifest = made.manifest
    return of_artifact(made, store), store.root / manifest["recipe"] / f"{manifest['stage']}.html"


def _recipes(address: str) -> Iterator[str]:
    """What a recipe of this address may have run as: itself, or the name in its file, such as quickstart-cai."""
    yield address
    with suppress(RecipeError):
        yield load(address).name


def _last(store: Store, recipe: str) -> Artifact:
    """The comparison that comes last in a recipe that was run."""
    from align.evals.report import comparisons

    made = [found for stage in store.last(recipe).values() if (found := store.find(stage["key"]))]
    if not (compared := comparisons(made)):
        raise RecipeError(f"{recipe}: its last run made no comparison. Run it to its stage `compare`")
    return compared[-1]
