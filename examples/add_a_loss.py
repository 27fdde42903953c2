"""A method of alignment is one loss, one objective and one stage. Here: DPO-Positive. `own.yaml` uses it.

DPO is content when the chosen reply loses probability as long as the rejected one loses more; this one is not.
"""

from pydantic import Field

from align.records import Preference
from align.stage import Context, PolicyRef
from align.train.fields import Training


def dpo_positive(chosen, rejected, beta: float, penalty: float):
    """Eq. 3 of arXiv:2402.13228. chosen, rejected: (pairs,) log-ratios, policy minus reference. Returns (pairs,)."""
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (chosen - rejected - penalty * (-chosen).relu()))


def objective(beta: float, penalty: float):
    """From a model and a batch of pairs to sums and counts; the learner divides, once for the whole step."""
    from align.losses.reduce import per_reply
    from align.train.objectives import Loss

    def loss(model, batch) -> Loss:
        policy = per_reply(model(batch).logp, batch.owner, len(batch.last)).unflatten(0, (-1, 2))  # (pairs, 2)
        chosen = policy[:, 0] - batch.numbers["reference_chosen"]
        rejected = policy[:, 1] - batch.numbers["reference_rejected"]
        losses = dpo_positive(chosen, rejected, beta, penalty)
        count = losses.new_tensor(float(len(losses)))
        return Loss(losses.sum(), count, {"accuracy": ((chosen > rejected).float().sum(), count)})

    return loss


class DPOPositive(Training):
    """Raise the chosen reply above the rejected one, but never by letting both sink."""

    name = "dpo_positive"
    makes = "policy"
    reads = Preference
    usual_lr = 1e-6

    policy: PolicyRef
    """The model to tune; also the reference."""
    beta: float = Field(default=0.1, gt=0)
    """How much a log-ratio counts."""
    penalty: float = Field(default=5.0, ge=0)
    """How much a chosen reply costs that is less likely than before."""

    def run(self, ctx: Context) -> dict[str, float]:
        from align.models.logprobs import LanguageModel
        from align.train.session import Session, trainable_policy

        policy = trainable_policy(ctx, self, self.policy)
        session = Session.of(ctx, self, policy).with_reference(policy, ctx.keys[self.policy.name])
        metrics = session.train(LanguageModel(policy.model), objective(self.beta, self.penalty))
        session.save()
        return metrics
