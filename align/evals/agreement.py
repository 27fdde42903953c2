"""How far people (or judges) agree beyond chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from align.errors import CheckError
from align.evals.clusters import places
from align.evals.rates import effective, wilson_of
from align.records import Prompt, Rated
from align.rewards.base import Reward, marks


@dataclass(frozen=True)
class Agreement:
    """Agreement beyond chance: 1 is perfect, 0 is what chance would give."""

    measure: Literal["Cohen's kappa", "Krippendorff's alpha"]
    value: float | None
    """None where all judgements are the same one, so that chance would agree as well."""
    low: float | None
    """95 % interval, of kappa only."""
    high: float | None
    same: float
    """Share of pairs of judgements on the same thing that are equal."""
    n: int
    """Things that two or more have judged."""
    clusters: int | None = None
    """What they belong to, where there is less of that than things."""


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
    place, known = places([record.prompt for record in records]), np.flatnonzero(~np.isnan(scores)).tolist()
    said = {"people": {}, "reward": {}}
    counts, failures = [[0, 0], [0, 0]], []
    for i in known:
        record, score = records[i], float(scores[i])
        label, found = int(record.score), int(score > threshold)
        said["people"][str(i)], said["reward"][str(i)] = label, found
        counts[label][found] += 1
        if label != found:
            failures.append(Failure(record, score, marks(reward, asked[i], record.reply[-1].content)))
    if (made := agreement(said, {str(i): str(place[i]) for i in known})) is None:
        raise CheckError(f"reward {reward.name!r} has nothing to say about any of {len(records)} replies")
    return Labelled(made, ((*counts[0],), (*counts[1],)), failures, len(records) - len(known))  # type: ignore[arg-type]


def agreement(
    judgements: Mapping[str, Mapping[str, int]], clusters: Mapping[str, str] | None = None
) -> Agreement | None:
    """Cohen's kappa of two raters, Krippendorff's alpha of more; None where no two have judged the same thing.

    judgements: rater -> thing -> category. Raters need not have judged the same things. clusters: thing -> what it
    belongs to, such as its prompt; things that it does not know stand alone.
    """
    things: dict[str, list[int]] = {}
    for said in judgements.values():
        for thing, category in said.items():
            things.setdefault(thing, []).append(category)
    both = [thing for thing, categories in things.items() if len(categories) > 1]
    if not both:
        return None
    shared, belongs = [things[thing] for thing in both], [(clusters or {}).get(thing, thing) for thing in both]
    groups = len(set(belongs)) if len(set(belongs)) < len(both) else None
    same = sum(map(_agreeing, shared)) / sum(len(said) * (len(said) - 1) for said in shared)
    if len(judgements) > 2:
        return Agreement("Krippendorff's alpha", krippendorff_alpha(shared), None, None, same, len(both), groups)
    first, second = judgements.values()
    place = np.unique(belongs, return_inverse=True)[1]
    value, low, high = cohen_kappa([first[thing] for thing in both], [second[thing] for thing in both], place)
    return Agreement("Cohen's kappa", value, low, high, same, len(both), groups)


def cohen_kappa(
    first: Sequence[int], second: Sequence[int], place: np.ndarray
) -> tuple[float | None, float | None, float | None]:
    """(kappa, low, high) of two raters' categories of the same things; None where all are one category.

    place: (n,) the number of the cluster that each thing belongs to. The 95 % interval is Wilson's of the share on
    which the two differ, which is what kappa lacks to 1 in units of chance. Its n gives the clustered variance of kappa
    (delta method: Fleiss, Cohen and Everitt, Psychological Bulletin 72, 1969), but is at most that of the share.
    """
    categories, found = np.unique([first, second], return_inverse=True)
    if len(categories) < 2:
        return None, None, None
    one, other = found.reshape(2, -1)
    same, n = (one == other).astype(float), len(one)
    ones, others = (np.bincount(said, minlength=len(categories)) / n for said in (one, other))
    room = 1 - float(ones @ others)  # what chance leaves
    pulls = (same - same.mean()) / room - (1 - same.mean()) * (others[one] + ones[other] - 2 * (1 - room)) / room**2
    if pulls.std() < 1e-9:  # rounding
        pulls = np.zeros(n)
    worth = min(1.0, same.var() / (room**2 * pulls.var())) if pulls.any() and same.var() else 1.0
    low, high = wilson_of(1 - float(same.mean()), worth * effective(pulls, place))
    return 1 - (1 - float(same.mean())) / room, max(-1.0, 1 - high / room), 1 - low / room


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
