"""Reply against reply: the sections of comparison.json that come from single replies and not from means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from align.evals.ratings import ratings
from align.evals.wins import scored, win_rate, wins
from align.records import Sample
from align.rewards.base import Better
from align.stage import seed_of


def contests(
    samples: Mapping[str, Sequence[Sample]], better: Mapping[str, Better], seed: int,
    clusters: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`win_rates`, and `ratings` of three and more policies, by every reward that has a better side.

    samples: policy -> its replies, ordered by prompt. better: reward -> which of its scores are good.
    clusters: prompt -> what it belongs to.
    """
    rates, rated = [], {}
    for reward in (name for name, side in better.items() if side is not None):
        replies = {name: scored(made, reward, better[reward]) for name, made in samples.items()}
        replies = {name: found for name, found in replies.items() if found}
        held = {(baseline, policy): wins(replies[policy], replies[baseline], clusters)
                for baseline, policy in combinations(replies, 2)}  # fmt: skip
        for (baseline, policy), found in held.items():
            if found.rate.units > 1:
                named = {"metric": reward, "policy": policy, "baseline": baseline}
                rates.append(named | win_rate(found, seed_of(seed, reward)))
        by_pair = {pair: found.rate for pair, found in held.items()}
        if len(replies) > 2 and (table := ratings(by_pair, seed_of(seed, reward))):
            rated[reward] = table
    return {"win_rates": rates, "ratings": rated}
