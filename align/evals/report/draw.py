"""The door to matplotlib: one look for every chart, as SVG that takes the page's colours and as PNG for papers.

A chart is drawn in the colours of light paper. In its SVG each of them becomes a CSS variable of the same name, so
that it follows the page into the dark; text stays text, in the page's own font.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {
    "paper": ("#ffffff", "#14171a"),
    "ink": ("#1c2126", "#e8eaec"),
    "muted": ("#5d6873", "#9aa5af"),
    "faint": ("#dde2e7", "#30373e"),
    "better": ("#1a6fb5", "#6cb2ee"),
    "worse": ("#c4501b", "#f0935f"),
    "p0": ("#77818b", "#98a3ad"),
    "p1": ("#0b6e99", "#58b7e0"),
    "p2": ("#d1495b", "#f28591"),
    "p3": ("#3b8f4a", "#7fcb8b"),
    "p4": ("#8a5bb5", "#bd98e0"),
    "p5": ("#b97a06", "#e6b04f"),
    "p6": ("#0f8b8d", "#5fd0cc"),
    "p7": ("#a23e7d", "#e08bc1"),
}
"""name -> (on light paper, in the dark). `p0` is the first policy's, which the others are held against."""
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
POLICIES = sum(name[0] == "p" and name[1:].isdigit() for name in COLOURS)

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "align",
    "text.parse_math": False,  # names are other people's text
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that charts are laid out alike everywhere
    "font.size": 11,
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.labelsize": 11,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "axes.edgecolor": LIGHT["faint"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": LIGHT["faint"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Chart:
    """A chart, what it says in words, and the numbers that it shows."""

    name: str
    """Its file's name, but for what file names may not hold."""
    title: str
    alt: str
    """What is to be seen, for those who cannot."""
    rows: list[dict[str, Any]]
    figure: Figure

    @property
    def width(self) -> int:
        """In CSS pixels, at which its text has the size of the page's small print."""
        return round(self.figure.get_figwidth() * 72)

    @property
    def svg(self) -> str:
        """For a page: an `<svg>` element without a size of its own."""
        file = io.StringIO()
        style: dict[Any, Any] = STYLE | {"svg.hashsalt": self.name}
        with matplotlib.rc_context(style):
            self.figure.savefig(file, format="svg", metadata={"Date": None})
        return _inline(file.getvalue(), self.alt)

    def save(self, folder: Path) -> None:
        """Writes it as PNG, 300 dots an inch, and its numbers as CSV."""
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w.@+-]+", "-", self.name)  # names of metrics and stages are other people's
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(folder / f"{name}.png", dpi=300, facecolor=LIGHT["paper"])
        with (folder / f"{name}.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(dict.fromkeys(key for row in self.rows for key in row)))
            table.writeheader()
            table.writerows(self.rows)


@contextmanager
def canvas(
    width: float, height: float, left: float = 48, right: float = 12, top: float = 10, bottom: float = 38
) -> Iterator[Axes]:
    """Axes of a new chart in the house's style, with margins around them, all in CSS pixels."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width / 72, height / 72))
        place = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
        yield figure.add_axes(place)


def room(labels: Iterable[str]) -> float:
    """Pixels that the longest of some labels takes."""
    return 6.6 * max(map(len, labels), default=0) + 10


class Span(NamedTuple):
    """A value with its interval, and how it is drawn."""

    value: float
    low: float
    high: float
    tone: str
    filled: bool = True


def spans(axes: Axes, labels: Sequence[str], rows: Sequence[Span]) -> None:
    """One row each, from the top: a dot and a line from low to high."""
    for y, (value, low, high, tone, filled) in enumerate(rows):
        axes.plot([low, high], [y, y], color=tone, linewidth=2)
        fill = tone if filled else LIGHT["paper"]
        axes.plot(value, y, "o", markersize=6.5, markerfacecolor=fill, markeredgecolor=tone)
    axes.locator_params(axis="x", nbins=6)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=LIGHT["ink"])


def figure_of(axes: Axes) -> Figure:
    """The whole figure."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    return figure


def colour(i: int) -> str:
    """The colour of the i-th policy, on light paper."""
    return LIGHT[f"p{i % POLICIES}"]


def short(name: str, most: int = 18) -> str:
    """A name that a chart has room for."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def smooth(values: Sequence[float]) -> np.ndarray:
    """A centred running mean over a twentieth of a curve, narrower at its ends."""
    sums, at = np.concatenate([[0.0], np.cumsum(values)]), np.arange(len(values))
    reach = np.minimum(np.minimum(at, len(values) - 1 - at), len(values) // 40)
    return (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)


def stylesheet() -> str:
    """The colours as CSS variables, light and dark."""
    light, dark = (" ".join(f"--{name}: {pair[i]};" for name, pair in COLOURS.items()) for i in (0, 1))
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


def _inline(svg: str, alt: str) -> str:
    """What matplotlib wrote, fit for a page with others like it: no style sheet, no ids that nothing refers to."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"#([\w.-]+)[\")]", svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    svg = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0]), svg)
    svg = f'<svg {box[0]} role="img" aria-label="{escape(alt)}">{svg[svg.index(">") + 1 :]}'
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def _tag(tag: str) -> str:
    """A tag of a drawing in the page's colours and font, with numbers no finer than anybody sees."""
    variables = {light: f"var(--{name})" for name, light in LIGHT.items()}
    tag = re.sub(r" ?font-family: [^;\"]*;?", "", tag)
    tag = re.sub(r"(?<=: )#[0-9a-f]{6}", lambda found: variables.get(found[0], found[0]), tag)
    return re.sub(r"(\.\d\d)\d+", r"\1", tag)
