"""Run a recipe from Python: change a field, watch the events, read the result.

Run it with `python examples/run_a_recipe.py [STORE]`.
"""

import sys
from pathlib import Path

from align.machine import machine
from align.recipe import load
from align.runner import plan, run
from align.store import Store


def told(event: dict) -> None:
    """Prints what a person would want to know; `align.runner` lists all events."""
    match event:
        case {"event": "stage_finished", "stage": stage, "seconds": seconds, "metrics": metrics}:
            print(f"{stage}: {seconds:.0f} s, {len(metrics)} metrics")
        case {"event": "note", "text": text}:
            print(f"  {text}")
        case {"event": "stage_failed", "stage": stage, "error": error}:
            print(f"{stage} failed: {error}")


def main(folder: Path) -> int:
    recipe = load(Path(__file__).with_name("own.yaml"), ["dpop.beta=0.2"])
    store = Store(folder)
    for step in plan(recipe, store).steps:
        print(f"{step.stage}: {step.state}, {step.why}")

    outcome = run(recipe, store, machine(store=folder, device="cpu"), emit=told)

    if outcome.exit_code == 0:
        print((outcome.artifacts["result"].path / "comparison.md").read_text())
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs")))
