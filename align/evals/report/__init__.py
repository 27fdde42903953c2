"""A comparison as one self-contained page, for people: what is better in words first, then everything behind it.

    page.write(material, file)                   the page
    page.write(material, file, figures=folder)   and every chart as PNG and CSV, for papers

The page needs no network and no other file. All text in it that models or people wrote is escaped by the template, or
packed so that nothing can read it as markup; and a policy in the page lets no script run but its own.

What a run asks each time, whether there is a page to write, is answered here without the libraries that draw one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from align.disk import sha256_of_file
from align.store import Artifact, Store

COMPARISON = "comparison.json"
HEAD = 500
"""Characters at whose end a page has said what it is about."""


def comparisons(made: Iterable[Artifact]) -> list[Artifact]:
    """Those artifacts of which a report can be made, in their order."""
    return [artifact for artifact in made if artifact.kind == "report" and (artifact.path / COMPARISON).is_file()]


def refresh(made: Artifact, store: Store, file: Path) -> None:
    """Writes the page about an artifact, unless the file is about this very comparison."""
    head = file.read_text("utf-8")[:HEAD] if file.is_file() else ""
    if sha256_of_file(made.path / COMPARISON) not in head:
        from align.evals.report.material import of_artifact
        from align.evals.report.page import write

        write(of_artifact(made, store), file)
