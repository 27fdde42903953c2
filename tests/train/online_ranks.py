"""What one rank of `test_ranks.py` runs: it plays, learns and plays again; rank 0 writes replies and weights.

Once with a critic that is a head on the policy's trunk; once with one that is an adapter on the policy's backbone,
activations computed again, and demonstrations beside.
"""

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from align.config import Lora
from align.data.tree import Reply, Tree
from align.models.critic import value_head
from align.models.shared import adapted_critic, train_only
from align.models.tokenizers import train_tokenizer
from align.train.objectives import demonstrated
from align.train.rollout import Player
from tests.train.test_rollout import PROMPTS, credit, learner, objective, player, policies

ASKED = np.arange(3, 7, dtype=np.int32)
SHOWN = [Tree(str(n), ASKED, (Reply(np.arange(9, 9 + n, dtype=np.int32)),)) for n in (5, 8, 3)]


def with_a_head(tokenizer: PreTrainedTokenizerBase) -> Player:
    return player(policies(tokenizer), head=value_head(16))


def with_adapters(tokenizer: PreTrainedTokenizerBase) -> Player:
    policy = policies(tokenizer)
    policy.model.requires_grad_(False)
    policy.own = policy.adapters.add(Lora(r=2), seed=1)
    critic = adapted_critic(policy, seed=2)
    train_only(policy, critic)
    policy.adapters.save_memory()
    return player(policy, critic=critic)


def play_and_learn(actor: Player, beside: bool) -> dict[str, Any]:
    fitted, assigned = learner(actor.module), credit("gae", whiten=True)
    replies, metrics = [], {}
    for seed in range(4 if beside else 2):  # an adapter's halves wait for each other, and for the critic's head
        turns = actor.play(PROMPTS[:3], seed, n=2)
        replies.append([completion.ids for turn in turns for completion in turn.completions])
        trees = assigned.assign([t.tree for t in turns], np.array([t.scores for t in turns]), 0.05)
        metrics = fitted.update(objective(), trees, (demonstrated(0.5), SHOWN) if beside else None)
    weights = {name: p.detach() for name, p in fitted.trainable.items()}
    ranks = fitted.accelerator.num_processes
    return {"ranks": ranks, "replies": replies, "metrics": metrics, "weights": weights}


def main(out: str) -> None:
    tokenizer = train_tokenizer((), "bytes")
    head, adapters = with_a_head(tokenizer), with_adapters(tokenizer)
    made = {"head": play_and_learn(head, beside=False), "adapters": play_and_learn(adapters, beside=True)}
    if head.accelerator.is_main_process:
        torch.save(made, out)
