"""Open what `run_a_recipe.py` left behind: where it came from, what was found, and a metric of one's own on replies.

Run it with `python examples/read_an_artifact.py [STORE]`.
"""

import json
import sys
from pathlib import Path

from align.data import read_file
from align.evals.metrics import per_prompt
from align.evals.statistics import difference, interval
from align.evals.verdicts import verdict
from align.store import Ancestor, Store


def show(ancestor: Ancestor, depth: int = 0) -> None:
    """The lineage of an artifact as a tree."""
    print(f"{'  ' * depth}{ancestor.field or 'artifact'}: {ancestor.name} ({ancestor.key[:8]})")
    for parent in ancestor.inputs:
        show(parent, depth + 1)


def main(folder: Path) -> None:
    store = Store(folder)
    result = store.get("own/result")  # or a key's first digits, or a path
    print(f"made in {result.manifest['seconds']} s with {result.manifest['versions']}")
    show(store.lineage(result))

    found = json.loads((result.path / "comparison.json").read_text())
    for policy, metrics in found["policies"].items():
        print(policy, {name: round(metric["value"], 3) for name, metric in metrics.items()})

    # A metric of one's own, the share of replies that ask back. A `Measure` is a number a prompt.
    measures = {}
    for policy in ("base", "dpop"):
        replies = list(read_file(result.path / "replies" / f"{policy}.jsonl"))
        measures[policy] = per_prompt(replies, ["?" in sample.reply for sample in replies])
        print(policy, "asks back:", interval(measures[policy], seed=0))
    print(verdict("asks back", None, "dpop", "base", difference(measures["dpop"], measures["base"], seed=0)))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
