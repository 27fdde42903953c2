"""What one rank of `test_ranks.py` runs: three updates, then the weights of rank 0 go to a file."""

import torch

from align.train.objectives import direct_preference, next_token
from tests.train.test_fit import learner, model, trees


def main(out: str) -> None:
    made = {}
    for name, objective in (("sft", next_token), ("dpo", direct_preference("sigmoid", 0.3))):
        module = model()
        fitted = learner(module, max_tokens=40)
        for seed in range(3):
            metrics = fitted.update(objective, trees(9, seed))
        made[name] = {"metrics": metrics, "weights": {n: p.detach() for n, p in module.named_parameters()}}
    if fitted.accelerator.is_main_process:
        torch.save(made | {"ranks": fitted.accelerator.num_processes}, out)
