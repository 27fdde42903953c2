"""Objectives: what a training stage minimises, as (model, batch) -> `Loss` of sums and counts.

An objective asks the model for log-probabilities or scores, hands them to a pure function of `align.losses`, and adds
up. It divides nothing: the learner divides once by the count of the whole optimizer step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from align.data.tree import Batch
from align.errors import TrainingError
from align.losses import divergence, language, policy, preference
from align.losses.reduce import lengths, per_reply, per_token
from align.train.fields import REFERENCE_FREE


@dataclass(frozen=True)
class Loss:
    """A loss as a sum and a count; metrics likewise."""

    total: Tensor
    """Scalar: the sum of the losses of this batch's items."""
    count: Tensor
    """Scalar: how many items (tokens or pairs) the sum is over."""
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """name -> (sum, count), both scalars."""

    def detached(self, weight: float = 1.0) -> Loss:
        """The same numbers, times a weight, without their graph."""
        metrics = {k: (s.detach() * weight, n.detach() * weight) for k, (s, n) in self.metrics.items()}
        return Loss(self.total.detach() * weight, self.count.detach() * weight, metrics)

    def flat(self) -> Tensor:
        """All sums and counts as one float64 vector: total, count, then each metric's pair."""
        pairs = [x for pair in self.metrics.values() for x in pair]
        return torch.stack([x.double() for x in (self.total, self.count, *pairs)])


class Objective(Protocol):
    """Something to minimise."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss: ...


def next_token(model: nn.Module, batch: Batch) -> Loss:
    """Mean negative log-likelihood of the scored tokens, for pretraining and supervised fine-tuning."""
    losses = language.nll(model(batch).logp)
    return Loss(losses.sum(), _count(losses))


def bradley_terry(centering: float, margin: float = 0.0) -> Objective:
    """Reward modelling on trees of (chosen, rejected), with the soft labels and `margin` times the margins of each."""

    def objective(model: nn.Module, batch: Batch) -> Loss:
        chosen, rejected = _pairs(model(batch))
        numbers = batch.numbers
        losses = preference.bradley_terry(chosen, rejected, margin * numbers["margin"], 1 - numbers["label"])
        losses = numbers["weight"] * (losses + centering * preference.centering(chosen, rejected))
        lead = chosen - rejected
        return Loss(losses.sum(), _count(losses), {
            "accuracy": _mean(lead > 0), "margin": _mean(lead), "score": _mean((chosen + rejected) / 2),
        })  # fmt: skip

    return objective


def direct_preference(
    loss: str, beta: float, smoothing: float = 0.0, gamma: float = 0.0, nll: float = 0.0
) -> Objective:
    """The DPO family on trees of (chosen, rejected).

    Log-ratios are policy minus reference, where `reference_chosen` and `reference_rejected` are summed log-probs in the
    trees' numbers. A pair's label is wrong with the probability of `1 - label` and `smoothing` taken together. nll: the
    weight of the chosen reply's negative log-likelihood a token (arXiv:2404.19733, eq. 2).
    """

    def objective(model: nn.Module, batch: Batch) -> Loss:
        replies = len(batch.last)
        sums = per_reply(model(batch).logp, batch.owner, replies)
        counts = lengths(batch.owner, replies)
        numbers = batch.numbers
        imitation = language.nll(_pairs(per_token(sums, counts))[0]) if nll else None
        if loss not in REFERENCE_FREE:
            reference = torch.stack([numbers["reference_chosen"], numbers["reference_rejected"]], 1).flatten()
            sums = sums - reference
        means = per_token(sums, counts)
        (chosen, rejected), (mean_chosen, mean_rejected) = _pairs(sums), _pairs(means)
        wrong = (1 - numbers["label"]) * (1 - smoothing) + numbers["label"] * smoothing
        match loss:
            case "sigmoid":
                losses = preference.dpo(chosen, rejected, beta, wrong)
            case "robust":
                losses = preference.robust_dpo(chosen, rejected, beta, wrong)
            case "ipo":
                losses = preference.ipo(mean_chosen, mean_rejected, beta)
            case "hinge":
                losses = preference.hinge(chosen, rejected, beta)
            case "simpo":
                losses = preference.simpo(mean_chosen, mean_rejected, beta, gamma, wrong)
            case "orpo":
                losses = language.nll(mean_chosen) + beta * preference.odds_ratio(mean_chosen, mean_rejected)
            case _:
                raise ValueError(f"no such preference loss: {loss}")
        if imitation is not None:
            losses = losses + nll * imitation
        averaged = loss in (*REFERENCE_FREE, "ipo")
        lead = (mean_chosen - mean_rejected) if averaged else (chosen - rejected)
        metrics = {"accuracy": _mean(lead > 0), "margin": _mean(beta * lead)}
        names = ("chosen_logp", "rejected_logp") if loss in REFERENCE_FREE else ("chosen_ratio", "rejected_ratio")
        metrics |= {names[0]: _mean(chosen), names[1]: _mean(rejected)}
        if imitation is not None:
            metrics["nll"] = _mean(imitation)
        return Loss((numbers["weight"] * losses).sum(), _count(losses), metrics)

    return objective


def proximal_policy(
    *,
    clip: float,
    temperature: float,
    entropy: float,
    kl: tuple[str, float],
    value: tuple[float, float | None],
    on_policy: float | None,
) -> Objective:
    """Proximal policy optimization on trees of sampled replies, averaged over tokens.

    Replies carry `logp` and `advantage`, `reference` where the loss has a KL term, `value` and `return` where there is
    a critic. kl: the estimator and its weight in the loss. value: the weight of the critic's loss, and its clip.
    on_policy: the largest |ratio - 1| to accept, for the first update after sampling, when every ratio must be 1.
    """
    estimate = divergence.ESTIMATORS[kl[0]]

    def objective(model: nn.Module, batch: Batch) -> Loss:
        numbers = batch.token_numbers
        logp, spread, values = model(batch, temperature, bool(entropy))
        ratio = (logp - numbers["logp"]).exp()
        if on_policy is not None:
            _check_on_policy(ratio.detach(), on_policy)
        losses = policy.clipped(logp, numbers["logp"], numbers["advantage"], clip)
        metrics = {
            "policy_loss": _mean(losses),
            "ratio": _mean(ratio),
            "approx_kl": _mean(divergence.kl_positive(numbers["logp"], logp)),
            "clip_fraction": _mean(policy.outside(logp, numbers["logp"], numbers["advantage"], clip)),
        }
        if kl[1]:
            losses = losses + kl[1] * estimate(logp, numbers["reference"])
        if entropy:
            losses = losses - entropy * spread
        if values is not None:
            weight, held = value
            errors = policy.squared(values, numbers["return"])
            if held is not None:
                errors = policy.clipped_squared(values, numbers["value"], numbers["return"], held)
            losses, metrics["value_loss"] = losses + weight * errors, _mean(errors)
        return Loss(losses.sum(), _count(losses), metrics)

    return objective


def demonstrated(weight: float) -> Objective:
    """The supervised term of PPO-ptx, for a step of which another objective makes the rest: it adds `weight` times the
    sum over scored tokens to that step's loss, and nothing to its count."""

    def objective(model: nn.Module, batch: Batch) -> Loss:
        losses = language.nll(model(batch, assess=False).logp)
        return Loss(weight * losses.sum(), losses.new_zeros(()), {"ptx_loss": _mean(losses)})

    return objective


def _check_on_policy(ratio: Tensor, tolerance: float) -> None:
    """Raises TrainingError unless the model says of sampled tokens what it said when they were measured."""
    error = float((ratio - 1).abs().max())
    if not error <= tolerance:
        raise TrainingError(
            f"before the first update on new replies a token's probability ratio is {error:.2g} away from 1 "
            f"(tolerance {tolerance:g}): the model that trains is not the one that was measured"
        )


def _pairs(replies: Tensor) -> tuple[Tensor, Tensor]:
    """(K,) values of replies as chosen (P,) and rejected (P,)."""
    chosen, rejected = replies.unflatten(0, (-1, 2)).unbind(1)
    return chosen, rejected


def _count(values: Tensor) -> Tensor:
    return values.new_full((), values.numel())


def _mean(values: Tensor) -> tuple[Tensor, Tensor]:
    values = values.float()
    return values.sum(), _count(values)
