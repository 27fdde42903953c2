"""Tokens a second of our decoding beside `model.generate`, on the same prompts: `python tests/bench/generation.py`.

Needs ../shared. Tokens after a reply's stop id are not counted. Both run in turn, three times, and the best time
counts: time of the processor, so that a busy machine disturbs it less.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from align.config import Model, Sampling
from align.generate.hf import HFGenerator
from align.models.policy import Policy, load_policy
from align.records import Message, Messages

SHARED = Path(__file__).parents[3] / "shared"
CASES = [(64, 1, 256), (64, 1, 390), (64, 4, 128), (16, 16, 64)]
"""Prompts, replies a prompt, most new tokens."""


def prompts(count: int) -> list[Messages]:
    """Beginnings of stories, 3 to 42 words long."""
    stories = json.loads((SHARED / "data/tinystories-sample/tinystories_1000.json").read_text())
    return [(Message("user", " ".join(story.split()[: 3 + 7 * i % 40])),) for i, story in enumerate(stories[:count])]


def ours(policy: Policy, asked: list[Messages], sampling: Sampling) -> int:
    made = HFGenerator(policy, batch=len(asked) * sampling.n).generate(asked, sampling, seed=0)
    return sum(len(completion.ids) for completion in made)


def theirs(policy: Policy, asked: list[Messages], sampling: Sampling) -> int:
    rows = [policy.chat.prompt(prompt) for prompt in asked]
    width = max(map(len, rows))
    ids = torch.tensor([[policy.contract.pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    with torch.no_grad():
        made = policy.model.generate(
            ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=sampling.max_new_tokens,
            num_return_sequences=sampling.n, eos_token_id=list(policy.contract.stop), pad_token_id=policy.contract.pad,
        )  # fmt: skip
    stops = torch.isin(made[:, width:], torch.tensor(policy.contract.stop)).long()
    return int((stops.cumsum(1) - stops == 0).sum())


def speed(run: Callable[..., int], *given: object) -> float:
    begin = time.process_time()
    tokens = run(*given)
    return tokens / (time.process_time() - begin)


def main() -> None:
    torch.set_num_threads(1)
    policy = load_policy(Model(path=str(SHARED / "models/stories260K"), template="raw"))
    print(f"{'prompts':>8}{'replies':>8}{'tokens':>8}{'align':>10}{'generate':>10}{'ratio':>7}   tokens/s, one thread")
    for count, n, limit in CASES:
        asked, sampling = prompts(count), Sampling(n=n, max_new_tokens=limit)
        best = [0.0, 0.0]
        for _ in range(3):
            for i, run in enumerate((ours, theirs)):
                best[i] = max(best[i], speed(run, policy, asked, sampling))
        print(f"{count:>8}{n:>8}{limit:>8}{best[0]:>10.0f}{best[1]:>10.0f}{best[0] / best[1]:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
