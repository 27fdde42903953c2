"""Options that several verbs share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from rich.console import Console
from rich.markup import escape

from align.config import Endpoint, Model, documentation
from align.errors import RecipeError, StoreError
from align.machine import Machine, machine
from align.stage import Context
from align.store import Artifact, Store

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, a folder with one, or the name of a bundled recipe.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Fields to change, such as dpo.beta=0.2.")
]
Smoke = Annotated[
    bool, typer.Option("--smoke", help="Tiny random models of the same architectures, a few rows of each dataset.")
]
Until = Annotated[str | None, typer.Option(metavar="STAGE", help="Only this stage and all that it needs.")]
Only = Annotated[str | None, typer.Option(metavar="STAGE", help="Only this stage, from inputs that are there.")]
Fresh = Annotated[
    list[str] | None, typer.Option(metavar="STAGE", help="Run this stage even if its result is there; repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON an event, for programs.")]
StoreFolder = Annotated[
    Path | None, typer.Option("--store", metavar="DIR", help="Folder of artifacts; ALIGN_STORE, or runs.")
]


OF_TRAINING = ("processes", "attention", "checkpointing", "compile", "track")
"""Settings of the machine that only stages which train heed."""


def with_machine(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a verb one option for each field of `Machine`, and the settings themselves as its argument `settings`.

    Those of training are shown by the verbs that train, and taken by the others, too.
    """
    signature = inspect.signature(verb, eval_str=True)
    trains = verb.__name__ in ("run", "plan", "bench")
    options = [_option(name, hidden=not trains and name in OF_TRAINING) for name in Machine.model_fields]
    own = [p for p in signature.parameters.values() if p.name != "settings"]

    @functools.wraps(verb)
    def wrapped(**given: Any) -> Any:
        chosen = {name: given.pop(name) for name in Machine.model_fields}
        return verb(**given, settings=machine(**{k: v for k, v in chosen.items() if v not in (None, [])}))

    wrapped.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in (*own, *options)}
    return wrapped


def _option(name: str, hidden: bool) -> inspect.Parameter:
    field = Machine.model_fields[name]
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    many = name == "track"
    kind = list[str] if many else bool if field.annotation is bool else int if int in _kinds(field.annotation) else str
    first = documentation(Machine)[name].split(". ")[0].split("; ")[0].replace("\n", " ").rstrip(".") + "."
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        help=escape(first),
        metavar="|".join(choices) or None,
        hidden=hidden,
        show_default=False,
        rich_help_panel="Machine (or ALIGN_* variables)",
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) or (annotation,)


def store_at(folder: Path | None) -> Store:
    """The store in a folder, or the one that the machine settings name."""
    return Store(machine(store=folder).store)


def artifact(store: Store, address: str) -> Artifact:
    """The artifact of an address from the command line; a wrong address is a wrong command."""
    try:
        return store.get(address)
    except StoreError as error:
        raise RecipeError(str(error)) from None


def server(given: str) -> Endpoint | None:
    """The model behind a server that `http://HOST/v1#MODEL` means; None for what is no server's address."""
    if not given.startswith(("http://", "https://")):
        return None
    address, _, name = given.rpartition("#")
    if not address:
        raise RecipeError(f"{given}: which of the server's models? Write {given.rstrip('/')}#MODEL")
    return Endpoint(endpoint=address, name=name)


def policy_source(store: Store, address: str) -> Artifact | Model:
    """A policy by its address, or a model from outside by its folder or hub name."""
    try:
        return policy_of(store.get(address))
    except StoreError as error:
        recipe = address.partition("/")[0]
        outside = Path(address).is_dir() or ("/" in address and not (store.root / recipe).is_dir())
        if not outside:
            raise RecipeError(str(error)) from None
        return Model(path=address)


def policy_of(made: Artifact) -> Artifact:
    """The artifact, which must be a policy."""
    if made.kind != "policy":
        raise RecipeError(f"{made.path}: a {made.kind}, not a policy")
    return made


def reward_given(store: Store, given: str, inputs: dict[str, Any]) -> str:
    """What a stage's field says: a reference to a trained reward, which joins the inputs, or a name."""
    try:
        made = store.get(given)
    except StoreError:
        return given
    if made.kind != "reward":
        raise RecipeError(f"{given}: a {made.kind}, not a reward")
    name = Path(given).name
    name = given.strip("/").replace("/", "-") if name in inputs else name
    inputs[name] = made
    return f"${name}"


def reward_field(given: str, store: Store, inputs: dict[str, Any]) -> Any:
    """What a recipe's field would hold for the reward that was named."""
    from pydantic import TypeAdapter, ValidationError

    from align.rewards.base import RewardField

    try:
        return TypeAdapter(RewardField).validate_python(
            reward_given(store, given, inputs), context={"base": Path.cwd()}
        )  # fmt: skip
    except ValidationError as error:
        raise RecipeError(f"--reward: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def scoring(verb: str, inputs: dict[str, Any], store: Store, settings: Machine, seed: int = 0) -> Context:
    """What a reward needs to be loaded; its notes go to the error output."""
    console = Console(stderr=True)

    def tell(event: str, **values: Any) -> None:
        if event == "note":
            console.print(values["text"], style="dim")

    nowhere = Path()
    return Context(verb, verb, "", seed, inputs, {}, store, settings, nowhere, nowhere, tell)
