"""The verb report: the page about a comparison, made again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from align.cli.options import StoreFolder, artifact, store_at
from align.errors import RecipeError
from align.store import Artifact, Store

if TYPE_CHECKING:
    from align.evals.report import Material


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
    from align.evals.report import write

    material, beside = _found(store_at(store), address)
    file = out or beside
    write(material, file, figures)
    print(f"{file}" + (f", charts in {figures}" if figures else ""))


def _found(store: Store, address: str) -> tuple[Material, Path]:
    """What to report, and where its page goes unless told otherwise."""
    from align.evals.report import of_artifact, of_folder

    recipe, folder = store.root / address, Path(address)
    if (recipe / "last.json").is_file():
        return of_artifact(_last(store, address), store), recipe / "report.html"
    if folder.is_dir() and Artifact.at(folder.resolve()) is None:
        return of_folder(folder, folder.name), folder / "report.html"
    made = artifact(store, address)
    manifest = made.manifest
    return of_artifact(made, store), store.root / manifest["recipe"] / f"{manifest['stage']}.html"


def _last(store: Store, recipe: str) -> Artifact:
    """The comparison that comes last in a recipe that was run."""
    from align.evals.report import comparisons

    made = [found for stage in store.last(recipe).values() if (found := store.find(stage["key"]))]
    if not (compared := comparisons(made)):
        raise RecipeError(f"{recipe}: its last run made no comparison. Run it to its stage `compare`")
    return compared[-1]
