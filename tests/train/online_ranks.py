"""What one rank of `test_ranks.py` runs: it plays, learns and plays again; rank 0 writes replies and weights."""

import sys

import numpy as np
import torch
from test_rollout import PROMPTS, credit, learner, objective, player, policies

from align.models.critic import value_head
from align.models.tokenizers import train_tokenizer


def main(out: str) -> None:
    policy = policies(train_tokenizer((), "bytes"))
    actor = player(policy, head=value_head(16))
    fitted, assigned = learner(actor.module), credit("gae", whiten=True)
    replies = []
    for seed in range(2):
        turns = actor.play(PROMPTS[:3], seed, n=2)
        replies.append([completion.ids for turn in turns for completion in turn.completions])
        trees = assigned.assign([t.tree for t in turns], np.array([t.scores for t in turns]), 0.05)
        metrics = fitted.update(objective(), trees)
    if fitted.accelerator.is_main_process:
        weights = {name: p.detach() for name, p in actor.module.named_parameters()}
        ranks = fitted.accelerator.num_processes
        torch.save({"ranks": ranks, "replies": replies, "metrics": metrics, "weights": weights}, out)


if __name__ == "__main__":
    main(sys.argv[1])
