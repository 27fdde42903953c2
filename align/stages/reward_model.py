"""Reward models from preferences."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from align.records import Preference
from align.stage import Context, PolicyRef
from align.train.fields import Training


class RewardModel(Training):
    """A reward model: the policy's backbone with a scalar head, read at the reply's last token, trained so that chosen
    replies score above rejected ones (Bradley-Terry; arXiv:2203.02155, eq. 1)."""

    name = "reward_model"
    makes = "reward"
    usual_lr = 1e-5

    policy: PolicyRef
    """The model whose backbone the reward model starts from."""
    centering: float = Field(0.01, ge=0)
    """Weight of (chosen + rejected)^2, which keeps scores around 0 (arXiv:2312.09244, eq. 2)."""

    def check(self, ctx: Context) -> dict[str, Any]:
        from align.train.preflight import preflight

        return preflight(ctx, self, self.policy, Preference)[0]

    def run(self, ctx: Context) -> dict[str, float]:
        from align.train.objectives import bradley_terry
        from align.train.session import Session, trainable_reward

        reward = trainable_reward(ctx, self, self.policy)
        session = Session.of(ctx, self, reward, Preference)
        metrics = session.train(reward.module, bradley_terry(self.centering))
        session.save()
        return metrics
