"""The verb compare: the stage of that name outside of a recipe."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from align.cli import report as table
from align.cli.display import LiveTable, LogLines
from align.cli.options import policy_source, reward_given, server, with_machine
from align.config import Data, Endpoint, Model
from align.data.sources import READERS
from align.errors import Problem, RecipeError, StoreError
from align.machine import Machine
from align.problems import problems
from align.recipe import Recipe, outside
from align.source import Source
from align.stage import Context
from align.stages.compare import Compare
from align.store import Artifact, Store
from align.worker.inputs import known_as

PROMPTS, TEXT = "--prompts", "--text"
"""What the stage's inputs are called: no policy has such a name."""


@with_machine
def compare(
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY...",
            help="Artifacts, model folders, hub names, servers (http://HOST/v1#MODEL), files of ready answers.",
        ),
    ],
    prompts: Annotated[
        str | None, typer.Option(help="What they answer: a file, a hub name, or an artifact of records.")
    ] = None,
    reward: Annotated[list[str] | None, typer.Option(help="A rule, a card or a trained reward; repeatable.")] = None,
    judge: Annotated[
        list[str] | None, typer.Option(help="A model that says which of two replies is better; repeatable.")
    ] = None,
    criterion: Annotated[str | None, typer.Option(help="What judges are asked, as a question.")] = None,
    thoughts: Annotated[
        int | None, typer.Option(min=1, help="Tokens that judges may think in before they answer; none: at once.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Raw text whose likelihood is measured.")] = None,
    benchmark: Annotated[
        list[str] | None, typer.Option(help="A task of lm-evaluation-harness, or the YAML of your own; repeatable.")
    ] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(help="How prompts are put differently, to see how far scores move (typos ...); repeatable."),
    ] = None,
    paraphrase: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The same, in the words of a model or a server.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Chat template of models that are no artifacts: plain, raw or a jinja file.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What says which prompts belong together.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many prompts, and documents of a benchmark.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--replies", min=1, help="Replies a prompt.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where a reply is cut off.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed gives the same replies.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep comparison.json, .md and all replies.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page about it, HTML.")] = None,
    *,
    settings: Machine,
) -> None:
    """Let policies answer the same prompts and compare them in pairs; the first is the base.

    Ready answers are rows of `prompt` and `reply`, or records of `align sample`; each prompt finds its own.

    Example: align compare quickstart/sft quickstart/dpo --prompts tests.jsonl --reward length
    Example: align compare base tuned --benchmark arc_easy --benchmark gsm8k --limit 200
    """
    store, names = Store(settings.store), _names(policies)
    inputs: dict[str, Any] = {n: _contestant(store, given, template) for n, given in zip(names, policies, strict=True)}
    if prompts:
        inputs[PROMPTS] = _dataset(store, prompts, limit)
    if text:
        inputs[TEXT] = _dataset(store, text)
    rewards = [reward_given(store, given, inputs) for given in reward or ()]
    judges = [_model(store, given, template, inputs) for given in judge or ()]
    asked: dict[str, Any] = {"text": criterion} if criterion else {}
    asked |= {"reasoning": {"max_new_tokens": thoughts, "temperature": 0}} if thoughts else {}
    reworded = [{"paraphrase": _model(store, paraphrase, template, inputs)}] if paraphrase else []
    fields = {
        "policies": [f"${name}" for name in names],
        "prompts": f"${PROMPTS}" if prompts else None,
        "cluster": cluster,
        "rewards": rewards,
        "judges": [{"model": name} | asked for name in judges],
        "brittleness": [*(transform or ()), *reworded],
        "sampling": {"n": n, "temperature": temperature, "max_new_tokens": max_new_tokens},
        "text": f"${TEXT}" if text else None,
        "benchmarks": [{"task": task, "limit": limit} for task in benchmark or ()],
    }
    stage, inputs = _pinned((_stage(fields), inputs))
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        work = out or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        _run(stage, inputs, store, settings, seed, work, console)
        table.show(work, "comparison", console)
        if report:
            _report(work, inputs, store, report)


def _stage(fields: dict[str, Any]) -> Compare:
    try:
        return Compare.model_validate(fields, context={"base": Path.cwd()})
    except ValidationError as error:
        found = problems(error, Compare, fields)
        raise RecipeError([Problem(".".join(map(str, path)), what) for path, what in found]) from None


def _pinned(value: Any) -> Any:
    """The same with hub names at their commits, as a recipe has them, so that keys and results are of one model."""
    hub = outside.Hub()

    def pin(place: outside.Place, leaf: Any) -> Any:
        if isinstance(leaf, (Path, Endpoint)) or outside.files(leaf, Path.cwd()) is not None:
            return leaf
        return hub.pinned(leaf)

    return outside.mapped(value, pin)


def _run(
    stage: Compare, inputs: dict[str, Any], store: Store, settings: Machine, seed: int, out: Path, console: Console
) -> None:
    with (LiveTable if console.is_terminal else LogLines)(console) as shown:
        shown({"event": "run_started", "recipe": "compare", "stages": {"compare": "compare"}})
        shown({"event": "stage_started", "stage": "compare"})
        context = Context(
            stage="compare", type="compare", key="", seed=seed, base=Path.cwd(),
            inputs=inputs, keys=_keys(inputs, store, seed), store=store, machine=settings, work=out, out=out,
            emit=lambda event, **values: shown({"event": event, "stage": "compare", **values}),
        )  # fmt: skip
        stage.check(context)
        stage.run(context)


def _report(folder: Path, inputs: dict[str, Any], store: Store, file: Path) -> None:
    from align.evals.report.material import of_inputs
    from align.evals.report.page import write

    write(of_inputs(folder, "comparison", inputs, store), file)
    print(f"report: {file}")


def _names(policies: list[str]) -> list[str]:
    """The last part of each address where those differ, else all of it; of a server, what it calls the model."""
    addresses = [found.name if (found := server(address)) else address for address in policies]
    short = [Path(a).stem if Path(a).is_file() else Path(a).name for a in addresses]
    return short if len(set(short)) == len(short) else list(map(_joined, addresses))


def _joined(address: str) -> str:
    return address.strip("/").replace("/", "-")


def _contestant(store: Store, given: str, template: str | None) -> Artifact | Model | Endpoint | Data:
    """Who an address from the command line is."""
    if found := server(given):
        return found
    if Path(given).is_file():
        return Data(path=given)
    if Path(given).suffix in READERS:
        raise RecipeError(f"{given}: no such file of ready answers")
    with suppress(StoreError):
        if (made := store.get(given)).kind == "records":
            return made
    found = policy_source(store, given)
    return found.model_copy(update={"template": template}) if isinstance(found, Model) and template else found


def _model(store: Store, given: str, template: str | None, inputs: dict[str, Any]) -> str:
    """The reference to a model that judges or rewords, which joins the inputs."""
    found = _contestant(store, given, template)
    if isinstance(found, Data) or (isinstance(found, Artifact) and found.kind != "policy"):
        raise RecipeError(f"{given}: what judges or rewords is a model or a server, not records")
    (name,) = _names([given])
    name = _joined(given) if inputs.get(name, found) != found else name
    inputs[name] = found
    return f"${name}"


def _dataset(store: Store, given: str, limit: int | None = None) -> Artifact | Data:
    try:
        made = store.get(given)
    except StoreError:
        return Data(path=given, limit=limit)
    if made.kind != "records":
        raise RecipeError(f"{given}: a {made.kind}, not records")
    return made


def _keys(inputs: dict[str, Any], store: Store, seed: int) -> dict[str, str]:
    """The content key of each input, as a recipe would have it; none for what nobody can name by a commit."""
    here = Path.cwd() / "compare.yaml"
    named = Recipe(
        name="compare", seed=seed, file=here, plugins=(), stages={}, source=Source(here, ""),
        models={name: value for name, value in inputs.items() if isinstance(value, (Model, Endpoint))},
        data={name: value for name, value in inputs.items() if isinstance(value, Data)},
    )  # fmt: skip
    keys = {name: key.value for name, key in named.keys(store.hash_of).items() if not key.provisional}
    return keys | {name: known_as(value.key, value) for name, value in inputs.items() if isinstance(value, Artifact)}
