"""What one rank of `test_ranks.py` runs: three updates, then the weights of rank 0 go to a file, and what the reference
says of nine pairs, with the number that rank 0 looked at."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from align.models.policy import from_scratch
from align.models.tokenizers import train_tokenizer
from align.store import Store
from align.train.objectives import direct_preference, next_token
from align.train.reference import with_reference
from tests.train.test_fit import context, learner, model, trees
from tests.train.test_rollout import SIZES


def referred(folder: Path) -> dict[str, Any]:
    """Asked twice: the second time it is known."""
    policy, seen = from_scratch(SIZES, train_tokenizer((), "bytes"), template="raw"), []
    policy.model.model.embed_tokens.register_forward_hook(lambda module, given, found: seen.append(given[0].numel()))
    folder.mkdir(exist_ok=True)
    ctx, told = dataclasses.replace(context(folder), store=Store(folder)), []
    for _ in range(2):
        made = with_reference(ctx, policy, "key", trees(9), layout="tree", device=torch.device("cpu"))
        told.append([[tree.numbers[f"reference_{name}"] for name in ("chosen", "rejected")] for tree in made])
    return {"told": told, "seen": seen}


def main(out: str) -> None:
    made = {}
    for name, objective in (("sft", next_token), ("dpo", direct_preference("sigmoid", 0.3))):
        module = model()
        fitted = learner(module, max_tokens=40)
        for seed in range(3):
            metrics = fitted.update(objective, trees(9, seed))
        made[name] = {"metrics": metrics, "weights": {n: p.detach() for n, p in module.named_parameters()}}
    reference = referred(Path(out).with_suffix(""))
    if fitted.accelerator.is_main_process:
        torch.save(made | {"ranks": fitted.accelerator.num_processes, "reference": reference}, out)
