"""What people watch while a policy learns from its own replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from align.data.tree import Tree
from align.evals.statistics import Measure, difference, interval
from align.train.rollout import Turn, drift, tokens


def of_turns(turns: Sequence[Turn]) -> dict[str, float]:
    """Figures of replies: rewards, KL in nats per token, entropy, length, how many stopped."""
    trees = [turn.tree for turn in turns]
    scores, lengths = np.array([turn.scores for turn in turns]), _lengths(turns)
    parts = {f"reward_{name}": np.array([turn.parts[name] for turn in turns]) for name in turns[0].parts}
    heard = {name: values[~np.isnan(values)] for name, values in parts.items()}
    return {
        "reward": float(scores.mean()),
        **{name: float(values.mean()) for name, values in heard.items() if len(values)},
        "kl": float((tokens(trees, "logp") - tokens(trees, "reference")).mean()),
        "entropy": float(tokens(trees, "entropy").mean()),
        "tokens": float(lengths.mean()),
        "stop": float(np.mean([c.finish == "stop" for turn in turns for c in turn.completions])),
        "length_correlation": correlation(scores.ravel(), lengths.ravel()),
        "drift": drift(trees),
    }


def of_credit(trees: Sequence[Tree]) -> dict[str, float]:
    """Figures of advantages and, where there is one, of the critic."""
    advantages = tokens(trees, "advantage")
    made = {"advantage": float(advantages.mean()), "advantage_spread": float(advantages.std())}
    if "return" in trees[0].replies[0].numbers:
        returns, values = tokens(trees, "return"), tokens(trees, "value")
        spread = float(returns.var())
        made["explained_variance"] = 1 - float((returns - values).var()) / spread if spread else 0.0
    return made


Examined = dict[str, dict[str, list[float]]]
"""Of each measure the totals and counts, prompt by prompt, as JSON keeps them."""


def examined(turns: Sequence[Turn]) -> Examined:
    """Held-out prompts: the reward, its parts, KL in nats per token, length, and how many stopped."""
    lengths = _lengths(turns).sum(1)
    kl = [float((tokens([t.tree], "logp") - tokens([t.tree], "reference")).sum()) for t in turns]
    columns: dict[str, list[Any]] = {"reward": [turn.scores for turn in turns]}
    for name in turns[0].parts if len(turns[0].parts) > 1 else ():
        columns[f"reward_{name}"] = [turn.parts[name] for turn in turns]
    columns["tokens"] = [[len(c.ids) for c in turn.completions] for turn in turns]
    columns["stop"] = [[c.finish == "stop" for c in turn.completions] for turn in turns]
    return {name: _means(rows) for name, rows in columns.items()} | {"kl": {"total": kl, "count": lengths.tolist()}}


def compared(ids: Sequence[str], before: Examined, after: Examined, seed: int) -> dict[str, Any]:
    """Of each measure its value before and after, and the paired difference, with 95 % intervals."""
    made = {}
    for name in before:
        old, new = (_measure(part[name], ids) for part in (before, after))
        found = difference(new, old, seed)
        made[name] = {
            "before": vars(interval(old, seed)), "after": vars(interval(new, seed)), "difference": vars(found)
        }  # fmt: skip
    return made


def _measure(found: dict[str, list[float]], ids: Sequence[str] = ()) -> Measure:
    return Measure(tuple(ids), np.array(found["total"]), np.array(found["count"]))


def _means(rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """The mean of each row, as total and count; a row of NaN alone counts nothing."""
    kept = [[value for value in row if not np.isnan(value)] for row in rows]
    return {"total": [float(np.mean(row)) if row else 0.0 for row in kept], "count": [float(bool(row)) for row in kept]}


def _lengths(turns: Sequence[Turn]) -> np.ndarray:
    return np.array([[len(c.ids) for c in turn.completions] for turn in turns], float)


def correlation(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> float:
    """Pearson's; 0 where one side does not vary."""
    return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) and np.ptp(other) else 0.0
