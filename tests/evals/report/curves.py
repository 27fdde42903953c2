"""Makes the README's picture of how policies learned: what people watch in ppo, of several stages in one figure.

align run stories/ppo && python tests/evals/report/curves.py runs/stories-ppo ppo ppo_lora rloo
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from align.evals.report.draw import LIGHT, STYLE, colour, smooth
from align.evals.report.material import Made
from align.store import Artifact

OUT = Path(__file__).parents[3] / "recipes" / "stories" / "curves.png"
WATCHED = {
    "reward": "reward", "kl": "KL to the base, nats a token", "entropy": "entropy, nats", "tokens": "length, tokens",
    "clip_fraction": "clip fraction", "approx_kl": "KL of an update, nats", "value_loss": "value loss",
    "explained_variance": "explained variance",
}  # fmt: skip


def main(run: Path, *names: str) -> None:
    """run: the folder of a recipe's results. names: of its stages that learned from their own replies."""
    stages = [Made(name, artifact, {}) for name in names if (artifact := Artifact.at((run / name).resolve()))]
    with matplotlib.rc_context(STYLE | {"axes.titlesize": 11, "axes.titlecolor": LIGHT["muted"]}):
        figure = Figure(figsize=(13, 5), layout="constrained")
        for axes, (metric, title) in zip(figure.subplots(2, 4).flat, WATCHED.items(), strict=True):
            for i, stage in enumerate(stages):
                if curve := stage.curves.get(metric):
                    axes.plot(curve[0], smooth(curve[1]), color=colour(i + 1), linewidth=1.6, label=stage.name)
            axes.set_title(title, loc="left")
            axes.locator_params(nbins=5)
            if metric == "tokens":  # else nothing would look like much
                axes.set_ylim(bottom=0)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=9, frameon=False)
        figure.savefig(OUT, dpi=100, facecolor=LIGHT["paper"])
    Image.open(OUT).convert("RGB").quantize(64).save(OUT, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
