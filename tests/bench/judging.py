"""Questions to a judge beside the plain way, on the same requests: `python tests/bench/judging.py [JSON]`.

Plain: every question is a prompt of its own, and `model.generate` writes one token of answer, as many side by side as
ours has rows. Ours: what questions have in common, in both orders and under all principles, is computed once, and
answers are read off log-probabilities.

Needs ../shared. Weights are random, for no answer is looked at; sizes are such that computing, not Python, is the work.
Both run in turn, and the best time counts: time of the processor, so that a busy machine disturbs it less.
"""

from __future__ import annotations

import json
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from align.config import Model
from align.constitution import LETTERS, asked_to_compare, find
from align.generate.hf import HFGenerator
from align.models.policy import Policy, from_scratch, load_policy
from align.records import Message, Messages

SHARED = Path(__file__).parents[3] / "shared"
BATCH = 64
SIZES = {
    "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 8,
    "max_position_embeddings": 1024,
}  # fmt: skip
CASES = [(4, 80), (12, 80)]
"""Principles a pair, words of each reply."""
ROUNDS = 2


def questions(principles: int, words: int, pairs: int = 4) -> list[Messages]:
    """Pairs of beginnings of stories as replies, in both orders, under so many principles."""
    stories = json.loads((SHARED / "data/tinystories-sample/tinystories_1000.json").read_text())
    long, draw = [story for story in stories if len(story.split()) >= words], random.Random(0)
    chosen = find("harmless").principles[:principles]
    made = []
    for _ in range(pairs):
        first, second = (" ".join(story.split()[:words]) for story in draw.sample(long, 2))
        prompt = (Message("user", "Tell me a story."),)
        made += [asked_to_compare(prompt, *of, p) for p in chosen for of in ((first, second), (second, first))]
    return made


def ours(policy: Policy, asked: list[Messages]) -> None:
    HFGenerator(policy, batch=BATCH, max_tokens=1024).choose(asked, LETTERS)


def theirs(policy: Policy, asked: list[Messages]) -> None:
    for begin in range(0, len(asked), BATCH):
        rows = [policy.chat.prompt(question) for question in asked[begin : begin + BATCH]]
        width = max(map(len, rows))
        ids = torch.tensor([[policy.contract.pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.no_grad():
            policy.model.generate(
                ids, attention_mask=mask, do_sample=False, max_new_tokens=1, pad_token_id=policy.contract.pad
            )


def seconds(run: Callable[..., None], *given: Any) -> float:
    begin = time.process_time()
    run(*given)
    return time.process_time() - begin


def main() -> None:
    torch.set_num_threads(1)
    tokenizer = load_policy(Model(path=str(SHARED / "models/stories260K"), template="plain")).tokenizer
    policy = from_scratch({"architecture": "llama", **SIZES}, tokenizer, template="plain", seed=0)
    print(f"{'principles':>10}{'words':>7}{'questions':>11}{'align':>9}{'generate':>10}{'ratio':>7}   questions/s")
    found = []
    for principles, words in CASES:
        asked = questions(principles, words)
        best = [float("inf")] * 2
        for _ in range(ROUNDS):
            for i, run in enumerate((ours, theirs)):
                best[i] = min(best[i], seconds(run, policy, asked))
        speed = [len(asked) / taken for taken in best]
        found.append(
            {"principles": principles, "words": words, "questions": len(asked), "align": speed[0], "generate": speed[1]}
        )
        shown = f"{speed[0]:>9.1f}{speed[1]:>10.1f}{speed[0] / speed[1]:>7.2f}"
        print(f"{principles:>10}{words:>7}{len(asked):>11}{shown}", flush=True)
    if len(sys.argv) > 1:
        about = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": 1}
        Path(sys.argv[1]).write_text(json.dumps(about | {"model": SIZES, "judging": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
