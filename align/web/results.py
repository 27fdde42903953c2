"""What votes come to: records to train on, agreement, and which policy was preferred."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import yaml

from align.data import write
from align.disk import write_json
from align.evals.agreement import agreement
from align.evals.clusters import clusters
from align.records import Demonstration, Message, Preference, Prompt, prompt_id
from align.stage import seed_of
from align.web.items import Item, Reply
from align.web.votes import Log, Vote

Ties = Literal["drop", "soft"]


@dataclass
class _Pair:
    """Two replies of one item and what people said of them."""

    item: Item
    first: int
    second: int
    wins: int = 0
    ties: int = 0
    losses: int = 0

    @property
    def share(self) -> float:
        """The share of votes for the first, ties half."""
        return (self.wins + self.ties / 2) / (self.wins + self.ties + self.losses)


def preferences(votes: Sequence[Vote], ties: Ties) -> list[Preference]:
    """One record for every pair of replies that was ranked, and one for every correction over what it corrects.

    The label is the share of votes for the reply that more people preferred, ties half; so an item of which people
    disagree gives a soft label. A pair that comes out even is left out, or kept with a label of 0.5 (`soft`). Items
    that somebody flagged make no record.
    """
    votes = _unflagged(votes)
    made = [_preference(pair) for pair in _pairs(votes) if pair.share != 0.5 or ties == "soft"]
    return made + [_corrected(vote, vote.corrects) for vote in votes if vote.corrects is not None]


def demonstrations(votes: Sequence[Vote]) -> list[Demonstration]:
    """Every correction, and every single reply that was approved whole."""
    made = []
    for vote in _unflagged(votes):
        item = vote.item
        if vote.correction is not None:
            reply = (Message("assistant", vote.correction),)
        elif vote.ranks is not None and len(item.replies) == 1 and not item.replies[0].unfinished:
            reply = item.replies[0].messages
        else:
            continue
        turns = (*item.prompt, *reply)
        marked = tuple(i for i in range(len(item.prompt), len(turns)) if turns[i].role == "assistant")
        made.append(Demonstration(item.record, turns, marked, {"annotator": vote.annotator}))
    return made


def win_rates(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """How often people preferred each source's replies to each other one's, ties half, with a 95 % interval.

    Rows are like those of comparison.json; `n` counts prompts, `win`, `tie` and `loss` count votes. A reply that two
    sources share is a tie of the two.
    """
    import numpy as np

    from align.evals.statistics import Measure, interval

    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for vote in votes:
        for (one, first), (other, second) in _duels(vote):
            value = _value(vote.ranks or (), first, second)
            found.setdefault((one, other), {}).setdefault(prompt_id(vote.item.prompt), []).append(value)
    made = []
    for (one, other), prompts in sorted(found.items()):
        said = [value for values in prompts.values() for value in values]
        row = {"metric": "people", "policy": one, "baseline": other, "n": len(prompts),
               "win": said.count(1), "tie": said.count(0.5), "loss": said.count(0)}  # fmt: skip
        measure = Measure.of_means(tuple(prompts), np.array([np.mean(values) for values in prompts.values()]))
        measure = measure.within(_conversations(votes))
        row["rate"] = measure.value
        if measure.units > 1:
            bounds = interval(measure, seed_of(0, "people"), share=True)
            row |= {"low": bounds.low, "high": bounds.high}
        made.append(row)
    return made


def judgements(votes: Sequence[Vote]) -> dict[str, dict[str, int]]:
    """annotator -> pair of replies -> 1, 0 or -1, as agreement is measured."""
    made: dict[str, dict[str, int]] = {}
    for vote in votes:
        for first, second in combinations(range(len(vote.ranks or ())), 2):
            said = round(2 * _value(vote.ranks or (), first, second)) - 1
            made.setdefault(vote.annotator, {})[_named(vote.item, first, second)] = said
    return made


def summary(votes: Sequence[Vote], ties: Ties) -> dict[str, Any]:
    """Counts, agreement and win rates, for results.json and the screen."""
    people: dict[str, dict[str, int]] = {}
    for vote in votes:
        counts = people.setdefault(vote.annotator, {"votes": 0, "skipped": 0, "corrections": 0, "flagged": 0})
        counts["votes"] += 1
        counts["skipped"] += vote.ranks is None and vote.correction is None
        counts["corrections"] += vote.correction is not None
        counts["flagged"] += vote.flagged
    found = agreement(judgements(votes), _belonging(votes))
    return {
        "annotators": people,
        "agreement": asdict(found) if found else None,
        "win_rates": win_rates(votes),
        "preferences": len(preferences(votes, ties)),
        "demonstrations": len(demonstrations(votes)),
        "even": sum(pair.share == 0.5 for pair in _pairs(_unflagged(votes))),
        "ties": ties,
        "comments": [
            {"annotator": vote.annotator, "record": vote.item.record, "flagged": vote.flagged, "comment": vote.comment}
            for vote in votes if vote.comment or vote.flagged
        ],
    }  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What the votes of a log come to, in a folder."""

    log: Log
    folder: Path
    ties: Ties

    def export(self) -> dict[str, Path]:
        """Writes preferences.jsonl and demonstrations.jsonl, each where it has a record; returns them by name."""
        votes = self.log.standing()
        records = {"preferences": preferences(votes, self.ties), "demonstrations": demonstrations(votes)}
        made = {name: self.folder / f"{name}.jsonl" for name in records}
        for name, path in made.items():
            if records[name]:
                write(records[name], path)
            else:
                path.unlink(missing_ok=True)
        return {name: path for name, path in made.items() if records[name]}

    def entries(self) -> str:
        """The lines of a recipe that read those files."""
        files = {name: {"path": str(path.resolve())} for name, path in self.export().items()}
        return yaml.safe_dump({"data": files}, sort_keys=False, default_flow_style=None, width=10_000) if files else ""

    def conclude(self) -> dict[str, Any]:
        """Writes all that there is to know beside the log: the records, and results.json, which is returned."""
        self.export()
        found = summary(self.log.standing(), self.ties)
        write_json(self.folder / "results.json", found)
        return found


def _conversations(votes: Sequence[Vote]) -> dict[str, str]:
    """Id of a prompt -> id of the first of its conversation; nothing where all stand alone."""
    return clusters([Prompt(vote.item.record, vote.item.prompt) for vote in votes])


def _belonging(votes: Sequence[Vote]) -> dict[str, str]:
    """Pair of replies, as in `judgements` -> the prompt or conversation that it is about."""
    talks = _conversations(votes)
    return {
        _named(vote.item, *pair): talks.get(asked, asked)
        for vote in votes for asked in [prompt_id(vote.item.prompt)]
        for pair in combinations(range(len(vote.item.replies)), 2)
    }  # fmt: skip


def _named(item: Item, first: int, second: int) -> str:
    return f"{item.id}/{first}/{second}"


def _unflagged(votes: Sequence[Vote]) -> list[Vote]:
    flagged = {vote.item.id for vote in votes if vote.flagged}
    return [vote for vote in votes if vote.item.id not in flagged]


def _value(ranks: Sequence[int], first: int, second: int) -> float:
    """1 where the first is better, 0 where the second is, a half in a tie."""
    return 0.5 if ranks[first] == ranks[second] else float(ranks[first] < ranks[second])


def _pairs(votes: Sequence[Vote]) -> list[_Pair]:
    made: dict[tuple[str, int, int], _Pair] = {}
    for vote in votes:
        for first, second in combinations(range(len(vote.ranks or ())), 2):
            pair = made.setdefault((vote.item.id, first, second), _Pair(vote.item, first, second))
            value = _value(vote.ranks or (), first, second)
            pair.wins += value == 1
            pair.ties += value == 0.5
            pair.losses += value == 0
    return list(made.values())


def _duels(vote: Vote) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    """Each two of the sources of a ranked item, by name, with the index of the reply that each gave."""
    if vote.ranks is not None:
        given = sorted((source, i) for i, reply in enumerate(vote.item.replies) for source in reply.sources)
        yield from (pair for pair in combinations(given, 2) if pair[0][0] != pair[1][0])


def _preference(pair: _Pair) -> Preference:
    best, worst = (pair.first, pair.second) if pair.share >= 0.5 else (pair.second, pair.first)
    better, worse = pair.item.replies[best], pair.item.replies[worst]
    return Preference(
        pair.item.record, pair.item.prompt, better.messages, worse.messages, label=max(pair.share, 1 - pair.share),
        unfinished=_unfinished(better, worse), extra=_sources(better, worse) | {"votes": _votes(pair)},
    )  # fmt: skip


def _votes(pair: _Pair) -> dict[str, int]:
    wins, losses = max(pair.wins, pair.losses), min(pair.wins, pair.losses)
    return {"chosen": wins, "tie": pair.ties, "rejected": losses}


def _corrected(vote: Vote, index: int) -> Preference:
    worse = vote.item.replies[index]
    better = Reply((Message("assistant", vote.correction or ""),), (vote.annotator,))
    return Preference(
        vote.item.record, vote.item.prompt, better.messages, worse.messages,
        unfinished=_unfinished(better, worse), extra=_sources(better, worse),
    )  # fmt: skip


def _unfinished(better: Reply, worse: Reply) -> tuple[str, ...]:
    cut = {"chosen": better.unfinished, "rejected": worse.unfinished}
    return tuple(name for name, is_cut in cut.items() if is_cut)


def _sources(better: Reply, worse: Reply) -> dict[str, Any]:
    return {"chosen_by": list(better.sources), "rejected_by": list(worse.sources)}
