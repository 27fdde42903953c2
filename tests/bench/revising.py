"""Critique and revision beside the plain way, in one run: `python tests/bench/revising.py [JSON]`.

Plain: every request is a prompt of its own, read from its beginning, and `model.generate` writes the answers, as many
side by side as ours. Ours: a critique goes on from the reply and a revision from the critique, the examples that stand
before all prompts are computed once, and finished rows leave the batch.

Needs ../shared. Weights are random, for no answer is looked at; sizes are such that computing, not Python, is the work.
Both run in turn, and the best time counts: time of the processor, so that a busy machine disturbs it less.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from measuring import DATA, machine, say

from align.config import Model, Sampling
from align.constitution import find
from align.generate.base import Completion, Progress
from align.generate.critique import Reviser
from align.generate.hf import HFGenerator
from align.models.policy import from_scratch, load_policy
from align.records import Message, Messages, Prompt

BATCH = 16
SIZES = {
    "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 8,
    "max_position_embeddings": 2048,
}  # fmt: skip
CASES = [(2, 1, 32), (2, 2, 32), (0, 1, 32)]
"""Examples before the prompt, revisions, most new tokens of each answer."""
ROUNDS = 2


class Plain(HFGenerator):
    """`model.generate`, each request on its own, in batches of the size of ours."""

    def generate(
        self, prompts: Sequence[Messages], sampling: Sampling, seed: int, progress: Progress | None = None
    ) -> list[Completion]:
        torch.manual_seed(seed)
        made = []
        for begin in range(0, len(prompts), self.batch):
            rows = [self.policy.chat.prompt(prompt) for prompt in prompts[begin : begin + self.batch]]
            made += [self._completion(begin + i, ids) for i, ids in enumerate(self._written(rows, sampling))]
        return made

    def _written(self, rows: list[list[int]], sampling: Sampling) -> list[list[int]]:
        contract, width = self.policy.contract, max(map(len, rows))
        ids = torch.tensor([[contract.pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.no_grad():
            made = self.policy.model.generate(
                ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=sampling.max_new_tokens,
                eos_token_id=list(contract.stop), pad_token_id=contract.pad,
            )  # fmt: skip
        return made[:, width:].tolist()

    def _completion(self, prompt: int, ids: list[int]) -> Completion:
        stop = next((i for i, token in enumerate(ids) if token in self.policy.contract.stop), len(ids))
        return Completion(prompt, 0, self.policy.chat.text(ids[:stop]), tuple(ids), (), "stop")


def prompts() -> list[Prompt]:
    """Questions of XSTest."""
    with (DATA / "data/xstest/xstest_prompts.csv").open(newline="") as lines:
        asked = [row["prompt"] for row, _ in zip(csv.DictReader(lines), range(BATCH), strict=False)]
    return [Prompt(str(i), (Message("user", text),)) for i, text in enumerate(asked)]


def seconds(generator: HFGenerator, examples: int, revisions: int, limit: int) -> float:
    """Of the processor, for all the transcripts."""
    constitution = find("harmless")
    shown = tuple(turn for example in constitution.transcripts[:examples] for turn in example.turns())
    reviser = Reviser(
        generator, generator, constitution.principles, revisions, Sampling(max_new_tokens=limit), shown, 0,
        lambda done, total: None,
    )  # fmt: skip
    begin = time.process_time()
    reviser(prompts())
    return time.process_time() - begin


def main() -> None:
    torch.set_num_threads(1)
    tokenizer = load_policy(Model(path=str(DATA / "models/stories260K"), template="plain")).tokenizer
    policy = from_scratch({"architecture": "llama", **SIZES}, tokenizer, template="plain", seed=0)
    say(f"{'examples':>9}{'revisions':>10}{'tokens':>7}{'align':>8}{'generate':>10}{'ratio':>7}   transcripts/s")
    found = []
    for case in CASES:
        best = [float("inf")] * 2
        for _ in range(ROUNDS):
            for i, generator in enumerate((HFGenerator(policy, BATCH, keep=True), Plain(policy, BATCH))):
                best[i] = min(best[i], seconds(generator, *case))
        speed = [round(BATCH / taken, 3) for taken in best]
        names = ("examples", "revisions", "new_tokens", "align", "generate")
        found.append(dict(zip(names, (*case, *speed), strict=True)))
        examples, revisions, limit = case
        say(f"{examples:>9}{revisions:>10}{limit:>7}{speed[0]:>8.2f}{speed[1]:>10.2f}{best[1] / best[0]:>7.2f}")
    if len(sys.argv) > 1:
        about = machine() | {"batch": BATCH, "model": SIZES, "transcripts_per_second": found}
        Path(sys.argv[1]).write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
