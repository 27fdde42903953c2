"""Questions to a judge beside the plain way, on the same requests: `python tests/bench/judging.py`.

Plain: every question is a prompt of its own, and `model.generate` writes one token of answer, as many side by side as
ours has rows. Ours: what questions have in common, in both orders and under all principles, is computed once, and
answers are read off log-probabilities.

Needs what README.md describes under $ALIGN_DATA (default ../shared). Weights are random, for no answer is looked at;
sizes are such that computing, not Python, is the work. Both run in turn; seconds of the processor decide.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from measuring import DATA, Row, device, ratio, save, say, spread

from align.config import Model
from align.constitution import LETTERS, asked_to_compare, find
from align.generate.hf import HFGenerator
from align.models.policy import Policy, from_scratch, load_policy
from align.records import Message, Messages

BATCH = 64
SIZES = {
    "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 8,
    "max_position_embeddings": 1024,
}  # fmt: skip
CASES = [(4, 80), (12, 80)]
"""Principles a pair, words of each reply."""
REPETITIONS = 3


def questions(principles: int, words: int, pairs: int = 4) -> list[Messages]:
    """Pairs of beginnings of stories as replies, in both orders, under so many principles."""
    stories = json.loads((DATA / "data/tinystories-sample/tinystories_1000.json").read_text())
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
    tokenizer = load_policy(Model(path=str(DATA / "models/stories260K"), template="plain")).tokenizer
    policy = from_scratch({"architecture": "llama", **SIZES}, tokenizer, template="plain", seed=0)
    tasks: dict[str, Row] = {}
    for principles, words in CASES:
        asked = questions(principles, words)
        turns = [[seconds(run, policy, asked) for run in (ours, theirs)] for _ in range(REPETITIONS)]
        say(f"{principles} principles, {len(asked)} questions: seconds of ours and theirs {turns}")
        own, other = ([len(asked) / taken for taken in side] for side in zip(*turns, strict=True))
        plain = {"what": "`generate`", "setting": f"batch {BATCH}", "per_second": spread(other)}
        tasks[f"judging by {principles} principles"] = {
            "device": device(), "unit": "questions", "per_second": spread(own), "questions": len(asked), "words": words,
            "beside": [plain | {"times_faster": ratio(own, other)}],
        }  # fmt: skip
    save("judging.json", {"model": SIZES, "batch": BATCH, "repetitions": REPETITIONS}, tasks)


if __name__ == "__main__":
    main()
