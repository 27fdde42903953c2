"""Where a recipe lies: a path, a folder, a name beside the working directory's `recipes/`, or a bundled one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from align.constitution import FOLDER
from align.errors import RecipeError, suggestion
from align.registry import bundled


def find(recipe: Path | str) -> Path:
    """The file of a recipe. Raises RecipeError that names what there is."""
    for place in (Path(), Path("recipes"), bundled("recipes")):
        for file in _candidates(place / Path(recipe).expanduser()):
            if file.is_file():
                return file
    raise RecipeError(f"there is no recipe {str(recipe)!r}, as a path or a name.{suggestion(str(recipe), names())}")


def names() -> list[str]:
    """What `find` knows by name: recipes of the working directory and bundled ones, such as `quickstart/cai`."""
    return sorted({name for root in (Path("recipes"), bundled("recipes")) for name in _names(root)})


def _candidates(path: Path) -> Iterator[Path]:
    """`quickstart/` means its recipe.yaml, or its quickstart.yaml; a name needs no `.yaml`."""
    yield path
    yield path / "recipe.yaml"
    yield path / f"{path.name}.yaml"
    if path.suffix != ".yaml":
        yield path.with_name(f"{path.name}.yaml")


def _names(root: Path) -> Iterator[str]:
    for file in root.rglob("*.yaml"):
        short = file.with_suffix("").relative_to(root)
        if FOLDER in short.parts:
            continue
        folder = file.stem in ("recipe", file.parent.name) and file.parent != root
        yield (short.parent if folder else short).as_posix()
