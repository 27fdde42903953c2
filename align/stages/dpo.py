"""Direct preference optimization and its relatives."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from align.errors import CheckError
from align.records import Preference
from align.stage import Context, PolicyRef
from align.train.fields import REFERENCE_FREE, SOFT, Training

DOUBT = 0.45
"""The largest probability of a wrong label that `robust` takes."""


class DPO(Training):
    """Preference optimization without a reward model: raise the chosen reply above the rejected one.

    The reference is the policy as this stage finds it. Its log-probs are computed once and kept.
    """

    name = "dpo"
    makes = "policy"
    reads = Preference
    usual_lr = 1e-6

    policy: PolicyRef
    """The model to tune; also the reference."""
    loss: Literal["sigmoid", "robust", "ipo", "hinge", "simpo", "orpo"] = "sigmoid"
    """`sigmoid` is DPO (arXiv:2305.18290), conservative with smoothing; `robust` arXiv:2403.00409; `ipo`
    arXiv:2310.12036; `hinge` SLiC (arXiv:2305.10425); `simpo` arXiv:2405.14734; `orpo` arXiv:2403.07691. The last two
    need no reference."""
    beta: float = Field(0.1, gt=0)
    """How much a log-ratio counts: small lets the policy go far from the reference. For orpo, the weight of the
    odds-ratio term."""
    smoothing: float = Field(0.0, ge=0, lt=0.5)
    """The probability that a label is wrong."""
    gamma: float = Field(0.0, ge=0)
    """Target margin of simpo."""
    nll: float = Field(0.0, ge=0)
    """Weight of the chosen reply's negative log-likelihood a token, added to the loss (RPO, arXiv:2404.19733). It keeps
    likely what pairs say nothing about: without it, chosen refusals may spread to questions that nobody refused. orpo
    has it already."""

    @model_validator(mode="after")
    def _nothing_inert(self) -> DPO:
        if self.smoothing and self.loss not in SOFT:
            raise ValueError(f"smoothing has no effect with loss: {self.loss}; it is for {', '.join(SOFT)}")
        if self.gamma and self.loss != "simpo":
            raise ValueError(f"gamma has no effect with loss: {self.loss}; it is for simpo")
        if self.nll and self.loss == "orpo":
            raise ValueError("loss: orpo is the nll of the chosen reply plus beta times the odds ratio; give no nll")
        if self.loss == "robust" and not self.smoothing:
            raise ValueError("loss: robust without smoothing is loss: sigmoid; give smoothing")
        return self

    def check(self, ctx: Context) -> dict[str, Any]:
        from align.train.preflight import preflight

        figures, trees = preflight(ctx, self, self.policy)
        soft = sum(tree.numbers["label"] != 1 for tree in trees)
        if soft and self.loss not in SOFT:
            raise CheckError(f"loss: {self.loss} takes no soft labels, but {soft} pairs have one; {SOFT} take them")
        doubt = max(self.smoothing + (1 - 2 * self.smoothing) * (1 - tree.numbers["label"]) for tree in trees)
        if self.loss == "robust" and doubt > DOUBT:
            raise CheckError(f"loss: robust weighs pairs by 1 / (1 - 2 p); with p = {doubt:.2f} one drowns the others")
        return figures

    def run(self, ctx: Context) -> dict[str, float]:
        from align.models.logprobs import LanguageModel
        from align.train.objectives import direct_preference
        from align.train.session import Session, trainable_policy

        policy = trainable_policy(ctx, self, self.policy)
        session = Session.of(ctx, self, policy)
        if self.loss not in REFERENCE_FREE:
            session = session.with_reference(policy, ctx.keys[self.policy.name])
        objective = direct_preference(self.loss, self.beta, self.smoothing, self.gamma, self.nll)
        metrics = session.train(LanguageModel(policy.model), objective)
        session.save()
        return metrics
