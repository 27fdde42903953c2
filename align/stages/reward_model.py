"""Reward models from preferences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from align.data import read
from align.data.fields import DataField
from align.disk import write_json
from align.records import Preference
from align.stage import Context, PolicyRef
from align.train.fields import Training

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from align.data.tree import Tree
    from align.train.session import Session


class RewardModel(Training):
    """A reward model: the policy's backbone with a scalar head, read at the reply's last token, trained so that chosen
    replies score above rejected ones (Bradley-Terry; arXiv:2203.02155, eq. 1)."""

    name = "reward_model"
    makes = "reward"
    reads = Preference
    usual_lr = 1e-5

    policy: PolicyRef
    """The model whose backbone the reward model starts from."""
    centering: float = Field(0.01, ge=0)
    """Weight of (chosen + rejected)^2, which keeps scores around 0 (arXiv:2312.09244, eq. 2)."""
    margin: float = Field(default=0.0, ge=0)
    """How much a pair's margin counts (arXiv:2307.09288, eq. 2): scores should lead by so many times it. Margins are in
    the units of the data, such as points of a rating."""
    test: DataField | None = None
    """Held-out pairs: accuracy with its interval, beside that of a rule that knows lengths only."""

    def check(self, ctx: Context) -> dict[str, Any]:
        from align.train.preflight import preflight
        from align.train.session import trees_for

        figures, _ = preflight(ctx, self, self.policy)
        if self.test is not None:
            figures["test pairs"] = len(trees_for(ctx, self, self.preview(ctx).chat, read(ctx, self.test, Preference)))
        return figures

    def run(self, ctx: Context) -> dict[str, float]:
        from align.train.objectives import bradley_terry
        from align.train.session import Session, trainable_reward

        reward = trainable_reward(ctx, self, self.policy)
        test = read(ctx, self.test, Preference) if self.test is not None else []
        session = Session.of(ctx, self, reward, test)
        if not self.margin and any(tree.numbers["margin"] for tree in session.trees):
            ctx.note("the pairs have margins, which do not count unless margin: says how much")
        metrics = session.train(reward.module, bradley_terry(self.centering, self.margin))
        session.save()
        return metrics | (self._tested(ctx, session, test) if test else {})

    def _tested(self, ctx: Context, session: Session, test: Sequence[Preference]) -> dict[str, float]:
        """Accuracy on held-out pairs, and whether it is more than a ruler's; writes calibration.json for the report."""
        from align.evals.clusters import places
        from align.evals.reward_accuracy import accuracy_report, calibration

        asked = {pair.id: pair.prompt for pair in test}
        place = places([asked[tree.id] for tree in session.test])
        scores, lengths = session.scores(session.test), reply_lengths(session.test)
        report = accuracy_report(scores, lengths, reply_lengths(session.trees), place)
        write_json(ctx.out / "calibration.json", calibration(scores))
        ctx.note(
            f"right on {report['test_accuracy']:.1%} [{report['test_accuracy_low']:.1%}, "
            f"{report['test_accuracy_high']:.1%}] of {len(lengths)} held-out pairs; a rule that prefers the "
            f"{'longer' if report['longer_wins'] > 0.5 else 'shorter'} reply: {report['length_accuracy']:.1%} "
            f"(p = {report['length_p']:.2g})"
        )
        return report


def reply_lengths(trees: Sequence[Tree]) -> NDArray[np.float64]:
    """(pairs, 2) tokens of the chosen and the rejected reply."""
    import numpy as np

    return np.array([[len(reply.ids) for reply in tree.replies] for tree in trees], float)
