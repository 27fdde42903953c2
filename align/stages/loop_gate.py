"""The stage behind `gate:` of a loop: may the round's policy take the place of the one it was made from?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from align.config import Config
from align.errors import CheckError
from align.evals import ENOUGH, WIN_RATE
from align.stage import Context, PolicyRef, ReportRef, Stage
from align.store import Artifact

FILE = "gate.json"
COMPARISON = "comparison.json"
Verdict = Literal["within", "breached", "shown", "not shown", "not distinguishable"]


class Limit(Config):
    """One condition on a metric of a comparison: `{metric: refusal, max_increase: 0.02}`.

    Changes are those from the round's parent to its new policy, on the same prompts, and everything is judged by its
    95 % interval. `max_increase`, `max_decrease`, `max` and `min` guard: they fail only where the interval lies beyond
    the limit as a whole, and what is not distinguishable passes. `min_increase` and `min_decrease` demand: they pass
    only where the interval as a whole lies beyond the limit, and what is not distinguishable fails. Fewer than 10
    prompts tell nothing.
    """

    metric: str
    """What the comparison measures: a reward's name, or `stop`, `tokens`, `distinct-1`, `kl` ...; and `NAME/win_rate`,
    how often the judge or the reward NAME likes the policy's reply better than the parent's. Its change is that from a
    half, so `min_increase: 0` demands that the policy is shown to win."""
    report: ReportRef | None = None
    """The comparison of the round's new policy with its parent; none means the only report that the group makes."""
    max_increase: float | None = Field(None, ge=0)
    """How much higher than the parent's the policy's value may be."""
    max_decrease: float | None = Field(None, ge=0)
    """How much lower than the parent's the policy's value may be."""
    min_increase: float | None = Field(None, ge=0)
    """By more than this the policy's value must be shown to be higher than the parent's."""
    min_decrease: float | None = Field(None, ge=0)
    """By more than this the policy's value must be shown to be lower than the parent's."""
    max: float | None = None
    """The highest value that the policy may have, whatever the parent's is."""
    min: float | None = None
    """The lowest value that the policy may have."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not list(self.bounds()):
            raise ValueError(f"metric: {self.metric!r} has no limit; give one of {', '.join(_RULES)}")
        return self

    def bounds(self) -> Iterator[tuple[str, float]]:
        """(name, threshold) of every limit that is set."""
        for name in _RULES:
            if (threshold := getattr(self, name)) is not None:
                yield name, threshold


class _Rule(NamedTuple):
    about: Literal["change", "value"]
    sign: int
    """-1 where less is what the rule is about."""
    demands: bool
    says: str


_RULES = {
    "max_increase": _Rule("change", 1, False, "may rise by {:g}"),
    "max_decrease": _Rule("change", -1, False, "may fall by {:g}"),
    "min_increase": _Rule("change", 1, True, "must rise by more than {:g}"),
    "min_decrease": _Rule("change", -1, True, "must fall by more than {:g}"),
    "max": _Rule("value", 1, False, "may be {:g} at most"),
    "min": _Rule("value", -1, False, "must be {:g} at least"),
}


class LoopGate(Stage):
    """Judge a round of a loop; made from the `gate:` of a group. A round that fails stops the loop, not the run.

    Writes gate.json with every verdict; `passed` is 1 or 0.
    """

    name = "loop_gate"
    makes = "report"

    policy: PolicyRef
    """What the round has made."""
    parent: PolicyRef
    """What the round began with."""
    limits: tuple[Limit, ...] = Field(min_length=1)
    """All of them must hold."""

    def run(self, ctx: Context) -> dict[str, float]:
        found = [
            self._judged(ctx, limit, bound, threshold) for limit in self.limits for bound, threshold in limit.bounds()
        ]
        failed = [verdict for verdict in found if not verdict["holds"]]
        for verdict in found:
            ctx.note(verdict["says"], "info" if verdict["holds"] else "warning")
        content = {
            "policy": self.policy.name,
            "parent": self.parent.name,
            "passed": not failed,
            "because": "; ".join(verdict["says"] for verdict in failed),
            "limits": found,
        }
        (ctx.out / FILE).write_text(json.dumps(content, indent=1) + "\n")
        return {"passed": float(not failed), "limits": len(found), "failed": len(failed)}

    def _judged(self, ctx: Context, limit: Limit, bound: str, threshold: float) -> dict[str, Any]:
        rule = _RULES[bound]
        value, low, high, n = self._measured(_comparison(ctx, limit), limit, rule.about)
        at_most = rule.sign * threshold if rule.about == "value" else threshold
        least, most = sorted((rule.sign * low, rule.sign * high))
        verdict = judge(rule.demands, least, most, at_most, n)
        plus, to = ("+", f" against {self.parent.name}") if rule.about == "change" else ("", "")
        measured = f"{limit.metric} of {self.policy.name} is {value:{plus}.3g} [{low:.3g}, {high:.3g}]{to}, n = {n}"
        return {
            "metric": limit.metric, "bound": bound, "threshold": threshold, "value": value, "low": low, "high": high,
            "n": n, "verdict": verdict, "holds": verdict == "shown" if rule.demands else verdict != "breached",
            "says": f"{measured}, and {rule.says.format(threshold)}: {verdict}",
        }  # fmt: skip

    def _measured(
        self, found: dict[str, Any], limit: Limit, about: Literal["change", "value"]
    ) -> tuple[float, float, float, int]:
        """(value, low, high, prompts or clusters of them) of the policy, or of its difference from the parent."""
        policy, parent, metric = self.policy.name, self.parent.name, limit.metric
        for rate in found["win_rates"] if metric.endswith(WIN_RATE) else ():
            if f"{rate['metric']}{WIN_RATE}" == metric and {rate["policy"], rate["baseline"]} == {policy, parent}:
                ends = [end if rate["policy"] == policy else 1 - end for end in (rate["low"], rate["high"])]
                value = rate["rate"] if rate["policy"] == policy else 1 - rate["rate"]
                less = 0.5 if about == "change" else 0.0
                return value - less, min(ends) - less, max(ends) - less, rate["clusters"] or rate["n"]
        if about == "value" and (value := found["policies"].get(policy, {}).get(metric)):
            return value["value"], value["low"], value["high"], value["clusters"] or value["n"]
        for pair in found["pairs"] if about == "change" else ():
            if pair["metric"] == metric and {pair["policy"], pair["baseline"]} == {policy, parent}:
                flip = -1 if pair["policy"] == parent else 1
                low, high = sorted((flip * pair["low"], flip * pair["high"]))
                return flip * pair["difference"], low, high, pair["clusters"] or pair["n"]
        known = ", ".join(dict.fromkeys(pair["metric"] for pair in found["pairs"]))
        between = f"{policy} and {parent}" if about == "change" else policy
        raise CheckError(
            f"the gate asks for {metric!r} of {between}, which {limit.report} does not tell. It compares: {known}"
        )


def judge(demands: bool, low: float, high: float, threshold: float, n: int) -> Verdict:
    """The verdict on a quantity that should not be above a threshold, or on one that must be."""
    if n < ENOUGH or low <= threshold < high:
        return "not distinguishable"
    if demands:
        return "shown" if low > threshold else "not shown"
    return "breached" if low > threshold else "within"


def judgement(gate: Artifact) -> tuple[bool, str]:
    """Whether a round passed its gate, and if not, why."""
    found = json.loads((gate.path / FILE).read_text())
    return found["passed"], found["because"]


def _comparison(ctx: Context, limit: Limit) -> dict[str, Any]:
    if limit.report is None:
        raise CheckError(f"the limit on {limit.metric!r} names no report")
    report = ctx[limit.report]
    if not isinstance(report, Artifact) or not (report.path / COMPARISON).is_file():
        raise CheckError(f"a gate reads comparisons, and {limit.report} is none: it has no {COMPARISON}")
    return json.loads((report.path / COMPARISON).read_text())
