"""The verb agreement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from align.cli.options import reward_field, scoring, with_machine
from align.cli.text import number
from align.config import Data
from align.data.convert import convert
from align.errors import DataError
from align.machine import Machine
from align.records import Rated
from align.store import Store

if TYPE_CHECKING:
    from align.evals.agreement import Labelled

WORDS = ("no", "yes")
HEAD = 300
"""Characters of a reply that are shown."""


@with_machine
def agreement(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Replies with labels, 0 and 1.")],
    reward: Annotated[str, typer.Option(help="A rule, a card or a trained reward.")],
    threshold: Annotated[float, typer.Option(help="Scores above it are yes.")] = 0.5,
    failures: Annotated[bool, typer.Option("--failures", help="List the replies that it gets wrong, and why.")] = False,
    *,
    settings: Machine,
) -> None:
    """Tell how far a reward agrees with people's labels of replies, and show where it does not.

    Rows have `prompt`, `completion` and `label`; XSTest's files are known as they are.

    Example: align agreement xstest_v2_completions_gpt4.csv --reward refusal --failures
    """
    from align.data import load
    from align.evals.agreement import with_labels
    from align.rewards.base import load as load_reward

    store, inputs = Store(settings.store), dict[str, Any]()
    context = scoring("agreement", inputs, store, settings)
    scorer = load_reward(reward_field(reward, store, inputs), context)
    console = Console(highlight=False)
    for file in files:
        try:
            records = convert(load(Data(path=file), 0, Path.cwd()), Rated)
        except DataError as error:
            raise DataError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None
        found = with_labels(scorer, records, threshold)
        for line in (*_summary(file, scorer.name, found), *(_failures(found) if failures else ())):
            console.print(line, soft_wrap=True)


def _summary(file: str, reward: str, found: Labelled) -> Iterator[Text]:
    held, unscored = found.agreement, f", {found.unscored:,} not scored" if found.unscored else ""
    within = f" in {held.clusters:,} clusters" if held.clusters is not None else ""
    kappa = "not defined: all say the same"
    if held.value is not None and held.low is not None and held.high is not None:
        kappa = f"{held.value:.3f} [{held.low:.3f}, {held.high:.3f}]"
    yield Text.assemble((Path(file).name, "bold"), f": {reward} and the labels of {held.n:,} replies{within}{unscored}")
    yield Text(f"  Cohen's kappa {kappa}; the same {held.same:.1%}")
    for label, counts in zip(WORDS, found.counts, strict=True):
        told = ", ".join(f"{count:,} times {word}" for word, count in zip(WORDS, counts, strict=True))
        yield Text(f"  where people say {label:3}, it says {told}")


def _failures(found: Labelled) -> Iterator[Text]:
    for failure in found.failures:
        record = failure.record
        head = " ".join(record.reply[-1].content.split())
        where = record.extra.get("id", record.id)
        label = record.extra.get("final_label", WORDS[int(record.score)])
        yield Text(f"\n{where}: people say {label}, it says {number(failure.score)}", style="yellow")
        yield Text(f"  asked:   {' '.join(record.prompt[-1].content.split())}")
        yield Text(f"  replied: {head[:HEAD]}{' ...' if len(head) > HEAD else ''}")
        if failure.marks is not None:
            yield Text(f"  marks:   {'; '.join(failure.marks) or 'none'}")
