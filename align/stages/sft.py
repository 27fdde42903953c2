"""Supervised fine-tuning."""

from __future__ import annotations

from typing import Any

from align.records import Demonstration
from align.stage import Context, PolicyRef
from align.train.fields import Training


class SFT(Training):
    """Supervised fine-tuning: imitate the assistant turns of demonstrations, by their mean log-likelihood per token."""

    name = "sft"
    makes = "policy"
    reads = Demonstration
    usual_lr = 2e-5
    dropout = True

    policy: PolicyRef
    """The model to tune."""

    def check(self, ctx: Context) -> dict[str, Any]:
        from align.train.preflight import preflight

        return preflight(ctx, self, self.policy)[0]

    def run(self, ctx: Context) -> dict[str, float]:
        from align.models.logprobs import LanguageModel
        from align.train.objectives import next_token
        from align.train.session import Session, trainable_policy

        policy = trainable_policy(ctx, self, self.policy)
        session = Session.of(ctx, self, policy)
        metrics = session.train(LanguageModel(policy.model), next_token)
        session.save()
        return metrics
