"""Writes `trl_ppo.json`, which `test_trl_ppo.py` holds our PPO losses against: what TRL 1.12 computes of drawn numbers.

    pip download trl==1.12.0 --no-deps && unzip trl-1.12.0-py3-none-any.whl -d trl-1.12
    python tests/losses/make_trl_ppo.py trl-1.12/trl/experimental/ppo/ppo_trainer.py

TRL's losses are lines within a method of 500, so these lines are cut out of the file and run as they stand.
"""

import ast
import json
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import torch

FUNCTIONS = ("masked_mean", "masked_var", "masked_whiten")
CUTS = {
    "credit": ("logr = ref_logprobs - logprobs", "# 5. whiten rewards"),
    "advantages": ("lastgaelam = 0", "advantages = torch.masked_fill"),
    "losses": ("vpredclipped = torch.clamp(", "accelerator.backward(loss)"),
}
ROWS, TOKENS = 3, 5


def cut(source: str, begin: str, end: str) -> str:
    """The lines from the first that holds `begin` up to the one that holds `end`."""
    lines = source.splitlines()
    first = next(i for i, line in enumerate(lines) if begin in line)
    last = next(i for i, line in enumerate(lines) if i > first and end in line)
    return textwrap.dedent("\n".join(lines[first:last]))


def main(file: str) -> None:
    source = Path(file).read_text()
    space = {"torch": torch}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS:
            exec(ast.unparse(node), space)
    torch.manual_seed(0)
    draw = lambda scale: scale * torch.randn(ROWS, TOKENS, dtype=torch.double)  # noqa: E731
    logprobs = -draw(1.0).abs() - 0.5
    given = {
        "logprobs": logprobs, "ref_logprobs": logprobs + draw(0.3), "values": draw(0.5), "scores": draw(1.0)[:, 0],
        "new_logprobs": logprobs + draw(0.2), "vpred": draw(0.5),
    }  # fmt: skip
    cases = []
    for estimator in ("k1", "k3"):
        args = {
            "kl_coef": 0.05, "kl_estimator": estimator, "gamma": 0.99, "lam": 0.95, "cliprange": 0.2,
            "cliprange_value": 0.2, "vf_coef": 0.1,
        }  # fmt: skip
        whole = torch.zeros(ROWS, TOKENS, dtype=torch.bool)
        space |= given | {
            "args": SimpleNamespace(**args), "responses": logprobs, "padding_mask": whole, "padding_mask_p1": whole,
            "sequence_lengths": torch.full((ROWS,), TOKENS - 1), "sequence_lengths_p1": torch.full((ROWS,), TOKENS),
            "micro_batch_inds": slice(None), "mb_logprobs": logprobs, "mb_values": given["values"],
        }  # fmt: skip
        exec(cut(source, *CUTS["credit"]), space)
        exec(cut(source, *CUTS["advantages"]), space)
        space |= {"mb_advantage": space["advantages"], "mb_return": space["returns"]}
        exec(cut(source, *CUTS["losses"]), space)
        made = {name: space[name].tolist() for name in ("kl", "rewards", "returns", "advantages", "pg_loss", "vf_loss")}
        cases.append({"args": args, "made": made | {"loss": space["loss"].tolist()}})
    found = {"source": "trl 1.12.0, trl/experimental/ppo/ppo_trainer.py", "made_by": "tests/losses/make_trl_ppo.py"}
    found |= {"given": {name: tensor.tolist() for name, tensor in given.items()}, "cases": cases}
    (Path(__file__).parent / "trl_ppo.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
