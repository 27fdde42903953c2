"""How likely a policy is to give each of many answers, whatever they are answers to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from align.data.tree import Layout, Reply, Tree
from align.evals.evaluate import Subject
from align.models.attention import layout_for
from align.models.logprobs import LanguageModel
from align.train.batching import token_budget
from align.train.measure import with_token_numbers


def likelihoods(
    subject: Subject, pairs: Sequence[tuple[list[int], list[int]]], what: str
) -> list[tuple[float, bool]]:  # fmt: skip
    """(log-probability in nats, whether each token is the likeliest in its place) of answers to questions.

    pairs: ids of a question, at least one, and of an answer. Answers to the same question share a tree, where the model
    can be trusted with that. what: for the display.
    """
    places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, (asked, _) in enumerate(pairs):
        places[tuple(asked)].append(i)
    trees = [
        Tree(str(n), np.array(asked, np.int32), tuple(Reply(np.array(pairs[i][1], np.int32)) for i in members))
        for n, (asked, members) in enumerate(places.items())
    ]
    made = [(0.0, False)] * len(pairs)
    for members, tree in zip(places.values(), _scored(subject, trees, what) if trees else [], strict=True):
        for i, reply in zip(members, tree.replies, strict=True):
            made[i] = float(reply.numbers["logp"].astype(float).sum()), bool(reply.numbers["likeliest"].all())
    return made


def _scored(subject: Subject, trees: list[Tree], what: str) -> list[Tree]:
    model, tell = subject.policy.model, subject.progress(what)
    layout: Layout = "plain"
    if any(len(tree.replies) > 1 for tree in trees):
        longest = max(tree.length("plain") for tree in trees)
        layout, _ = layout_for(model.config, model.config._attn_implementation, longest)
    module = LanguageModel(model).eval()
    return with_token_numbers(
        lambda batch: dict(zip(("logp", "likeliest"), module.ranked(batch), strict=True)), trees, layout=layout,
        pad=subject.policy.contract.pad, max_tokens=token_budget(subject.ctx.machine, model.device),
        device=model.device, progress=lambda done: tell(done, len(trees)),
    )  # fmt: skip
