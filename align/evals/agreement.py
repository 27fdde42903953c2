"""How far people (or judges) agree beyond chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from align.errors import CheckError
from align.records import Prompt, Rated
from align.rewards.base import Reward, marks


@dataclass(frozen=True)
class Agreement:
    """Agreement beyond chance: 1 is perfect, 0 is what chance would give."""

    measure: Literal["Cohen's kappa", "Krippendorff's alpha"]
    value: float | None
    """None where all judgements are the same one, so that chance would agree as well."""
    low: float | None
    """95 % interval (asymptotic), of kappa only."""
    high: float | None
    same: float
    """Share of pairs of judgements on the same thing that are equal."""
    n: int
    """Things that two or more have judged."""


@dataclass(frozen=True)
class Failure:
    """A reply on which a reward and people differ."""

    record: Rated
    score: float
    """The reward's."""
    marks: list[str] | None
    """What in the reply the score goes by; None where the reward cannot say."""


@dataclass(frozen=True)
class Labelled:
    """A reward's yes and no beside people's."""

    agreement: Agreement
    counts: tuple[tuple[int, int], tuple[int, int]]
    """Replies by what people said, no or yes, and then by what the reward said."""
    failures: list[Failure]
    """The replies on which the two differ."""
    unscored: int
    """Replies of which the reward says nothing; they are not counted."""


def with_labels(reward: Reward, records: Sequence[Rated], threshold: float) -> Labelled:
    """How far a reward agrees with people's labels of replies, which are 0 or 1. Its scores above `threshold` are yes.

    Raises CheckError where a label is something else, or the reward has nothing to say.
    """
    if other := next((record for record in records if record.score not in (0, 1)), None):
        raise CheckError(f"labels are 0 and 1 (false and true); that of {other.id} is {other.score:g}")
    asked = [Prompt(record.id, (*record.prompt, *record.reply[:-1]), record.extra) for record in records]
    scores = np.array(reward(asked, [record.reply[-1].content for record in records]), float)
    known = [found for found in zip(records, asked, scores.tolist(), strict=True) if not np.isnan(found[2])]
    said = {"people": {}, "reward": {}}
    counts, failures = [[0, 0], [0, 0]], []
    for place, (record, prompt, score) in enumerate(known):
        label, found = int(record.score), int(score > threshold)
        said["people"][str(place)], said["reward"][str(place)] = label, found
        counts[label][found] += 1
        if label != found:
            failures.append(Failure(record, score, marks(reward, prompt, record.reply[-1].content)))
    if (made := agreement(said)) is None:
        raise CheckError(f"reward {reward.name!r} has nothing to say about any of {len(records)} replies")
    return Labelled(made, ((*counts[0],), (*counts[1],)), failures, len(records) - len(known))  # type: ignore[arg-type]


def agreement(judgements: Mapping[str, Mapping[str, int]]) -> Agreement | None:
    """Cohen's kappa of two raters, Krippendorff's alpha of more; None where no two have judged the same thing.

    judgements: rater -> thing -> category. Raters need not have judged the same things.
    """
    things: dict[str, list[int]] = {}
    for said in judgements.values():
        for thing, category in said.items():
            things.setdefault(thing, []).append(category)
    shared = [categories for categories in things.values() if len(categories) > 1]
    if not shared:
        return None
    same = sum(map(_agreeing, shared)) / sum(len(said) * (len(said) - 1) for said in shared)
    if len(judgements) > 2:
        return Agreement("Krippendorff's alpha", krippendorff_alpha(shared), None, None, same, len(shared))
    first, second = judgements.values()
    both = [thing for thing in first if thing in second]
    value, low, high = cohen_kappa([first[thing] for thing in both], [second[thing] for thing in both])
    return Agreement("Cohen's kappa", value, low, high, same, len(shared))


def cohen_kappa(first: Sequence[int], second: Sequence[int]) -> tuple[float | None, float | None, float | None]:
    """(kappa, low, high) of two raters' categories of the same things, with the asymptotic 95 % interval."""
    from statsmodels.stats.inter_rater import cohens_kappa, to_table

    if len({*first, *second}) < 2:
        return None, None, None
    with np.errstate(invalid="ignore"):  # of a test statistic that nobody asks for
        found: Any = cohens_kappa(to_table(list(zip(first, second, strict=True)))[0])
    low, high = max(-1.0, float(found.kappa_low)), min(1.0, float(found.kappa_upp))
    return float(found.kappa), low, high


def krippendorff_alpha(things: Sequence[Sequence[int]]) -> float | None:
    """Alpha for nominal data, by coincidences (Krippendorff 2011), from the categories that each thing was given.

    Raters may be missing; a thing with one category counts for nothing. None where there is one category only.
    """
    things = [said for said in things if len(said) > 1]
    totals = Counter(category for said in things for category in said)
    n = totals.total()
    observed = n - sum(_agreeing(said) / (len(said) - 1) for said in things)
    expected = n * n - sum(count * count for count in totals.values())
    return 1 - (n - 1) * observed / expected if expected else None


def _agreeing(said: Sequence[int]) -> int:
    """Ordered pairs of equal categories."""
    return sum(count * (count - 1) for count in Counter(said).values())
