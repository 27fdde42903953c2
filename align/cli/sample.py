"""The verb sample."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from align.cli.options import policy_source, with_machine
from align.config import Sampling
from align.errors import RecipeError
from align.machine import Machine
from align.records import Message
from align.store import Store


@with_machine
def sample(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="An artifact, a model folder, or a hub name.")],
    prompt: Annotated[list[str] | None, typer.Option(help="What to answer; repeatable.")] = None,
    system: Annotated[str | None, typer.Option(help="System message before each prompt.")] = None,
    n: Annotated[int, typer.Option("-n", "--replies", min=1, help="Replies a prompt.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Nucleus mass.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Where a reply is cut off.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed gives the same replies.")] = 0,
    *,
    settings: Machine,
) -> None:
    """Answer prompts with a policy.

    Example: align sample quickstart/dpo --prompt "what is 2 + 3 ?" -n 4
    """
    if not prompt:
        raise RecipeError('--prompt is missing: align sample POLICY --prompt "..."')
    store = Store(settings.store)
    source = policy_source(store, policy)
    from align.generate.hf import HFGenerator
    from align.models.policy import load_policy

    loaded = load_policy(source, store=store, device=settings.device)
    first = [Message("system", system)] if system else []
    asked = [(*first, Message("user", text)) for text in prompt]
    drawn = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, n=n)
    console = Console()
    for completion in HFGenerator(loaded, settings.sample_batch).generate(asked, drawn, seed):
        if completion.index == 0:
            console.print(Text(prompt[completion.prompt], style="bold"))
        cut = " ..." if completion.finish == "length" else ""
        console.print(Text(f"  {completion.text}{cut}"))
