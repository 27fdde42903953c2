"""The verb sample."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from align.cli.options import policy_source, reward_field, scoring, with_machine
from align.cli.text import number
from align.config import Sampling
from align.errors import RecipeError
from align.machine import Machine
from align.records import Message, Prompt, Sample, prompt_id
from align.stage import Context
from align.store import Store


@with_machine
def sample(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="An artifact, a model folder, or a hub name.")],
    prompt: Annotated[list[str] | None, typer.Option(help="What to answer; repeatable.")] = None,
    system: Annotated[str | None, typer.Option(help="System message before each prompt.")] = None,
    n: Annotated[int, typer.Option("-n", "--replies", min=1, help="Replies a prompt.")] = 1,
    reward: Annotated[str | None, typer.Option(help="A rule, a card or a trained reward that scores them.")] = None,
    best_of: Annotated[int | None, typer.Option(min=2, help="Show the best of so many replies by the reward.")] = None,
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
    if best_of and (n > 1 or not reward):
        raise RecipeError("--best-of needs --reward, which says what is best, and shows one reply a prompt, not -n")
    store = Store(settings.store)
    source, inputs = policy_source(store, policy), dict[str, Any]()
    scorer = reward_field(reward, store, inputs) if reward else None
    from align.generate.load import generator_of
    from align.models.policy import load_policy
    from align.rewards.base import direction

    if best_of and scorer and direction(scorer) is None:
        raise RecipeError(f"--reward: {scorer.name!r} calls no score better")

    loaded = load_policy(source, store=store, device=settings.device)
    first = [Message("system", system)] if system else []
    asked = [(*first, Message("user", text)) for text in prompt]
    drawn = Sampling(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, n=best_of or n)
    made = [
        Sample(str(c.prompt), asked[c.prompt], c.text, policy, c.index, c.finish)
        for c in generator_of(loaded, settings).generate(asked, drawn, seed)
    ]
    if scorer:
        made = _scored(made, scorer, bool(best_of), scoring("sample", inputs, store, settings, seed))
    console = Console()
    for i, reply in enumerate(made):
        if not i or made[i - 1].id != reply.id:
            console.print(Text(prompt[int(reply.id)], style="bold"))
        cut = " ..." if reply.finish == "length" else ""
        score = "".join(f"{number(value)}  " for value in reply.scores.values())
        console.print(Text(f"  {score}{reply.reply}{cut}"))


def _scored(made: list[Sample], scorer: Any, only_best: bool, ctx: Context) -> list[Sample]:
    """The replies with their scores; on request the best to each prompt."""
    from dataclasses import replace
    from math import isnan

    from align.evals.best_of import best
    from align.rewards.base import direction, load

    scores = load(scorer, ctx)([Prompt(prompt_id(s.prompt), s.prompt) for s in made], [s.reply for s in made])
    name = scorer.name
    made = [s if isnan(v) else replace(s, scores={name: v}) for s, v in zip(made, scores, strict=True)]
    return best(made, name, direction(scorer)) if only_best else made
