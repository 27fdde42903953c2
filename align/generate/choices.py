"""How likely a policy is to give each of a few answers: read off its log-probabilities, nothing is generated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from align.data import trie
from align.data.tree import Layout, Reply, Tree
from align.errors import CheckError
from align.generate.base import Progress
from align.losses.reduce import per_reply
from align.models.logprobs import LanguageModel
from align.models.preview import context_of
from align.records import Messages
from align.train.measure import per_reply_of

if TYPE_CHECKING:
    from align.models.policy import Policy


def choose(
    policy: Policy, questions: Sequence[Messages], options: Sequence[str], max_tokens: int,
    layout: Layout = "plain", progress: Progress | None = None,
) -> np.ndarray:  # fmt: skip
    """(Q, K) log-probs in nats of each option as the beginning of the answer, normalised over the options.

    max_tokens: of one micro-batch. layout: `tree` computes what questions have in common once, for models that can be
    trusted with that. A row is NaN where the question leaves the model's context no room for an option. Raises
    CheckError where two options begin alike to the end, as " A" and "A" do for some tokenizers: nothing could tell them
    apart.
    """
    if not questions:
        return np.zeros((0, len(options)))
    prompts = [policy.chat.prompt(question) for question in questions]
    # What stands right before an answer is the template's, and the same after all questions.
    answers = [tuple(policy.chat.begun(questions[0], option)) for option in options]
    if len(set(answers)) < len(options):
        raise CheckError(f"options {', '.join(map(repr, options))} are not all different as tokens")
    told = (lambda done: progress(done, len(questions))) if progress else lambda done: None
    measure = _shared if layout == "tree" else _alone
    room = (context_of(policy.model) or math.inf) - max(map(len, answers))
    fits = [i for i, prompt in enumerate(prompts) if len(prompt) <= room]
    made = np.full((len(questions), len(options)), np.nan)
    if fits:
        logps = measure(policy, [prompts[i] for i in fits], answers, max_tokens, told)
        made[fits] = logps - np.logaddexp.reduce(logps, axis=1, keepdims=True)
    return made


Answers = list[tuple[int, ...]]
Told = Callable[[int], None]


def _alone(policy: Policy, prompts: list[list[int]], answers: Answers, max_tokens: int, told: Told) -> np.ndarray:
    """(Q, K) log-probs, each question and answer in a row of its own."""
    trees = [
        Tree(str(i), np.array(prompt, np.int32), tuple(Reply(np.array(ids, np.int32)) for ids in answers))
        for i, prompt in enumerate(prompts)
    ]
    module = LanguageModel(policy.model).eval()
    sums = per_reply_of(
        lambda batch: per_reply(module(batch).logp.double(), batch.owner, len(batch.last)), trees,
        layout="plain", pad=policy.contract.pad, max_tokens=max_tokens, device=policy.model.device, progress=told,
    )  # fmt: skip
    return np.stack(sums)


@torch.no_grad()
def _shared(policy: Policy, prompts: list[list[int]], answers: Answers, max_tokens: int, told: Told) -> np.ndarray:
    """(Q, K) log-probs, beginnings that sequences share computed once."""
    sequences = [[*prompt, *ids] for prompt in prompts for ids in answers]
    scored = [len(ids) for ids in answers] * len(prompts)
    module, sums, done = LanguageModel(policy.model).eval(), np.zeros(len(sequences)), 0
    for members, batch in trie.batches(sequences, scored, max_tokens):
        batch = batch.to(policy.model.device)
        sums[members] = per_reply(module(batch).logp.double(), batch.owner, len(members)).cpu().numpy()
        done += len(members)
        told(done // len(answers))
    return sums.reshape(len(prompts), -1)
