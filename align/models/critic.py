"""Critics: what reward a policy's reply will still earn, guessed before each of its tokens."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from align.data.tree import Batch
from align.models.heads import Reward
from align.models.logprobs import LanguageModel, RewardModel, scores
from align.models.shared import Adapted


class Assessed(NamedTuple):
    """What an actor and its critic say about a batch's scored tokens."""

    logp: Tensor
    """(N,) log-probabilities in nats, float32."""
    entropy: Tensor | None
    """(N,) entropies in nats, where asked for."""
    values: Tensor | None
    """(N,) the rewards expected before each token, float32, where there is a critic."""


class ActorCritic(nn.Module):
    """A policy, and perhaps a critic: another backbone, adapters on the policy's own, or a head on what the policy
    itself computes (`shared`).

    One module with one forward, because DDP and FSDP see only what goes through it.
    """

    def __init__(
        self,
        actor: LanguageModel,
        critic: RewardModel | Adapted | None = None,
        critic_head: nn.Linear | None = None,
    ):
        super().__init__()
        self.actor, self.critic, self.critic_head = actor, critic, critic_head

    def forward(self, batch: Batch, temperature: float = 1.0, entropy: bool = False, assess: bool = True) -> Assessed:
        """What is said about the batch's scored tokens, log-probs and entropies under logits / temperature.

        assess: whether the critic is asked too.
        """
        hidden = self.actor.before(batch)
        logp, spread = self.actor.project(hidden, batch, temperature, entropy)
        values = None
        if assess and self.critic is not None:
            values = self.critic(batch, before=True)
        elif assess and self.critic_head is not None:
            values = scores(hidden, self.critic_head)
        return Assessed(logp, spread, values)


def value_head(width: int) -> nn.Linear:
    """A head that expects nothing yet: all zeros."""
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def trainable_critic(reward: Reward, fresh: bool) -> RewardModel:
    """A reward model as a critic that trains, all of it, its adapters merged. fresh: its head expects nothing yet."""
    if reward.adapters:
        reward.merge()
    reward.model.float().requires_grad_(True)
    if fresh:
        nn.init.zeros_(reward.score_head.weight)
    return reward.module
