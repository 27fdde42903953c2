"""How likely a policy is to give each of a few answers: read off its log-probabilities, nothing is generated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from align.errors import CheckError
from align.generate.base import Progress
from align.records import Message, Messages

if TYPE_CHECKING:
    from align.models.policy import Policy


def choose(
    policy: Policy, questions: Sequence[Messages], options: Sequence[str], max_tokens: int,
    progress: Progress | None = None,
) -> np.ndarray:  # fmt: skip
    """(Q, K) log-probs in nats of each option as the beginning of the answer, normalised over the options.

    max_tokens: of one micro-batch. Raises CheckError where two options begin alike to the end, as " A" and "A" do for
    some tokenizers: nothing could tell them apart.
    """
    from align.data.tree import Reply, Tree
    from align.losses.reduce import per_reply
    from align.models.logprobs import LanguageModel
    from align.train.measure import per_reply_of

    trees = []
    for i, question in enumerate(questions):
        answers = [_answer(policy, question, option) for option in options]
        if len(set(answers)) < len(answers):
            raise CheckError(f"options {', '.join(map(repr, options))} are not all different as tokens")
        prompt = np.array(policy.chat.prompt(question), np.int32)
        trees.append(Tree(str(i), prompt, tuple(Reply(np.array(ids, np.int32)) for ids in answers)))
    module = LanguageModel(policy.model).eval()
    sums = per_reply_of(
        lambda batch: per_reply(module(batch).logp.double(), batch.owner, len(batch.last)), trees,
        layout="plain", pad=policy.contract.pad, max_tokens=max_tokens, device=policy.model.device,
        progress=(lambda done: progress(done, len(trees))) if progress else lambda done: None,
    )  # fmt: skip
    logps = np.stack(sums)
    return logps - np.logaddexp.reduce(logps, axis=1, keepdims=True)


def _answer(policy: Policy, question: Messages, option: str) -> tuple[int, ...]:
    """The ids of an option as the reply, without what ends a reply."""
    ids = policy.chat.reply(question, (Message("assistant", option),))
    while ids and ids[-1] in policy.contract.stop:
        ids = ids[:-1]
    return tuple(ids)
