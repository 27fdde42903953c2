"""The verb bench: how fast the stages are here, and how much of the machine they use."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from align.cli.options import with_machine
from align.errors import RecipeError, suggestion
from align.machine import Machine

TASKS = (
    "pretrain", "sft", "reward_model", "dpo", "ppo", "critique_revise", "ai_feedback", "sample", "compare",
)  # fmt: skip


@with_machine
def bench(
    stages: Annotated[
        list[str] | None, typer.Argument(metavar="[STAGE]...", help=f"Of {', '.join(TASKS)}; none means all.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Shape of the model, whose weights are random: tiny (1.85 million) or llama-1b.")
    ] = "tiny",
    data: Annotated[
        str, typer.Option(help="Lengths of rows: hh-like, short, long, or those of a file of preferences.")
    ] = "hh-like",
    rows: Annotated[int, typer.Option(min=32, help="Prompts; a multiple of --batch-size.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of an optimizer step; more of them for a GPU.")] = 16,
    repetitions: Annotated[int, typer.Option(min=1, help="Turns; medians are shown with their spread.")] = 3,
    against: Annotated[str | None, typer.Option(help="trl: time its trainers on the same rows, side by side.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of weights and rows.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep all figures as JSON.")] = None,
    table: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="Print saved figures, a file or a folder, as a table.")
    ] = None,
    *,
    settings: Machine,
) -> None:
    """Measure stages on random rows: speed, memory, and the share of the machine's matrix rate that was useful.

    Example: align bench dpo sft --against trl --threads 1
    """
    from align.bench import table as shown

    if table:
        if stages:
            raise RecipeError(f"--table shows saved figures and measures nothing; repeat --table for {stages[0]}")
        files = [file for path in table for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
        print(shown.markdown(map(saved, files)))
        return
    tasks = stages or list(TASKS)
    for task in tasks:
        if task not in TASKS:
            raise RecipeError(f"bench knows no stage {task!r}.{suggestion(task, TASKS)}")
    if against not in (None, "trl"):
        raise RecipeError(f"--against: {against!r} is not known; there is trl")
    if dtype not in ("float32", "bfloat16"):
        raise RecipeError(f"--dtype: {dtype!r} is neither float32 nor bfloat16")
    if rows % batch_size:
        raise RecipeError(f"--rows: {rows} is no multiple of {batch_size}, the rows of an optimizer step")
    from align.bench import run, workload
    from align.bench.tasks import Order

    if model not in workload.SHAPES:
        raise RecipeError(f"--model: {model!r} is none of {', '.join(workload.SHAPES)}")
    made = workload.read(Path(data), rows, seed) if Path(data).is_file() else workload.drawn(data, rows, seed)
    console = Console(stderr=True)
    found: dict[str, object] = {}
    asked = Order(tasks[0], model, tuple(made), settings, seed, dtype, batch_size)
    for task in tasks:
        order = replace(asked, task=task)
        measure = run.against_trl if against and task in run.trl.TASKS else run.measured
        found[task] = row = measure(order, repetitions, lambda text: console.print(text, style="dim"))
        if not as_json:
            print("\n".join(shown.lines(task, row)))
    result = run.circumstances(asked) | {"command": command(sys.argv), "tasks": found}
    if as_json:
        print(json.dumps(result, indent=1))
    if save:
        save.write_text(json.dumps(result, indent=1) + "\n")


def saved(file: Path) -> dict[str, Any]:
    """The figures that `--save` kept."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"--table: {file} cannot be read: {error}") from None
    if not isinstance(found, dict) or "tasks" not in found:
        raise RecipeError(f"--table: {file} has no 'tasks', so it was not saved by `align bench --save`")
    return found


def command(arguments: list[str]) -> str:
    """The command as it was typed, without where its figures go."""
    kept = [a for i, a in enumerate(arguments[1:], 1) if a != "--save" and arguments[i - 1] != "--save"]
    return " ".join(["align", *kept])
