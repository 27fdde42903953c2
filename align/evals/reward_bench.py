"""How good a reward is on labelled pairs: accuracy by source, against rules that know nothing, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from align.evals.calibration import brier, calibration_error
from align.evals.rates import mcnemar, wilson
from align.evals.reward_accuracy import correlation, right_of
from align.records import Preference, Prompt
from align.rewards.base import Reward


def pair_scores(reward: Reward, pairs: Sequence[Preference]) -> np.ndarray:
    """(pairs, 2) a reward's scores of the chosen and the rejected reply, turned where less is better; NaN where it has
    nothing to say."""
    columns = []
    for turns in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs]):
        asked = [Prompt(p.id, (*p.prompt, *said[:-1]), p.extra) for p, said in zip(pairs, turns, strict=True)]
        columns.append(reward(asked, [said[-1].content for said in turns]))
    return np.array(columns, float).T * (-1 if reward.better == "lower" else 1)


def bench(
    scores: np.ndarray, lengths: np.ndarray, tags: Sequence[str], place: np.ndarray | None = None
) -> dict[str, Any]:  # fmt: skip
    """What a reward is worth on pairs; equal scores are half right, as if a coin were tossed.

    scores, lengths: (pairs, 2) of the chosen and the rejected reply. tags: where each pair is from. place: (pairs,) the
    number of each pair's cluster; none means that all stand alone. The length rule prefers longer or shorter replies,
    whichever is right more often on these very pairs: the most that a ruler can reach. `brier` and `calibration_error`
    take the probabilities that a difference of scores stands for by Bradley-Terry.
    """
    known = np.asarray(np.isfinite(scores).all(axis=1))
    scores, lengths = scores[known], lengths[known]
    place = np.arange(len(scores)) if place is None else place[known]
    right, longer = right_of(scores), right_of(lengths)
    ruler = longer if longer.mean() >= 0.5 else 1 - longer
    confidence = expit(np.abs(scores[:, 0] - scores[:, 1]))
    low, high = wilson(right, place)
    by_tag = {}
    for tag in dict.fromkeys(tags):
        here = np.array([t == tag for t, k in zip(tags, known.tolist(), strict=True) if k], bool)
        if mine := int(here.sum()):
            ends = wilson(right[here], place[here])
            by_tag[tag] = {"accuracy": right[here].mean(), "low": ends[0], "high": ends[1], "n": mine}
    numbers = {
        "pairs": len(right),
        "unscored": int((~known).sum()),
        "accuracy": right.mean(),
        "accuracy_low": low,
        "accuracy_high": high,
        "mean_over_tags": np.mean([found["accuracy"] for found in by_tag.values()]),
        "length_accuracy": ruler.mean(),
        "length_lead": (right - ruler).mean(),
        "length_p": mcnemar(right - ruler, place),
        "random_accuracy": 0.5,
        "length_correlation": correlation(scores.ravel(), lengths.ravel()),
        "score_spread": scores.std(),
        "brier": brier(confidence, right),
        "calibration_error": calibration_error(confidence, right),
    }
    return {name: float(value) for name, value in numbers.items()} | {"tags": by_tag}
