"""A policy as lm_eval asks it: from what its tasks write to the policy's own tokens, and back."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from align.config import Sampling
from align.errors import CheckError
from align.evals.benchmarks import Benchmark
from align.evals.evaluate import Subject
from align.evals.likelihood import likelihoods
from align.generate.base import cut
from align.models.preview import Preview, context_of
from align.records import Message, Messages
from align.stage import seed_of

NEW_TOKENS = 256
"""Of an answer, where a task sets no limit: lm_eval's default."""
DECODING = {"until", "do_sample", "temperature", "top_p", "top_k", "max_gen_toks"}


@dataclass(frozen=True)
class Reader:
    """A policy whose weights are still on disk: it can read questions, not answer them."""

    name: str
    policy: Preview
    weights: bool = True

    @property
    def tokenizer(self) -> str:
        return self.policy.contract.tokenizer


class Examinee(LM):
    """A policy, or a model behind a server, as lm_eval asks it."""

    def __init__(self, subject: Subject | Reader, benchmark: Benchmark):
        super().__init__()
        self.subject: Any = subject
        self.benchmark = benchmark
        self.chats = not subject.weights or subject.policy.contract.template != "raw"
        """Whether questions are conversations that a template writes, rather than texts to go on with."""
        self.too_long: dict[tuple[str, int], int] = {}
        """(task, document) -> the tokens of a question that leaves no room for its answer."""
        self._what = f"{benchmark.name} of {subject.name}"
        self._asked: dict[str, Messages] = {}

    @property
    def tokenizer_name(self) -> str:
        return self.subject.tokenizer

    # From what lm_eval writes to tokens.

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the model reads it. What was said is remembered, so that tokens are made of messages."""
        turns = [Message(turn["role"], turn["content"]) for turn in chat_history]
        if self.subject.weights and turns[0].role == "system" and not self._hears_system:
            turns[:2] = [Message("user", "\n\n".join(turn.content for turn in turns[:2]))]
        messages = tuple(turns)
        text = "\n\n".join(f"{message.role}: {message.content}" for message in messages)
        if self.subject.weights:
            chat = self.subject.policy.chat
            text = chat.spelled(chat.prompt(messages))
        self._asked[text] = messages
        return text

    @property
    def _hears_system(self) -> bool:
        """Whether the template knows messages of the system."""
        try:
            self.subject.policy.chat.prompt((Message("system", "a"), Message("user", "a")))
        except CheckError:
            return False
        return True

    def _messages(self, context: str) -> Messages:
        return self._asked.get(context, (Message("user", context),))

    def _pair(self, context: str, answer: str) -> tuple[list[int], list[int]]:
        """Ids of a question, and those of an answer that follow them."""
        policy = self.subject.policy
        if not context:
            return [self._beginning], policy.chat.further(answer, "")
        messages = self._messages(context)
        if self.chats and messages[-1].role != "assistant":
            return policy.chat.prompt(messages), policy.chat.begun(messages, answer)
        *before, last = messages
        text = last.content.rstrip()  # blanks belong to the answer: tokenizers join them to the word that follows
        asked = policy.chat.prompt((*before, Message(last.role, text)))
        return asked or [self._beginning], policy.chat.further(last.content[len(text) :] + answer, text)

    @property
    def _beginning(self) -> int:
        """The id before a text that nothing else is before."""
        contract = self.subject.policy.contract
        return contract.stop[0] if contract.bos is None else contract.bos

    def read(self, request: Instance) -> None:
        """Makes a question's tokens and nothing of them. Raises CheckError where that can't be."""
        if request.request_type == "generate_until":
            self._decoding(_kwargs(request))
            self._has_room(request, 0)
        elif request.request_type == "loglikelihood":
            self._pair(*request.args[:2])

    # What lm_eval asks.

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        pairs = [self._pair(*request.args[:2]) for request in requests]
        there = [i for i, pair in enumerate(pairs) if self._fits(requests[i], sum(map(len, pair)))]
        found = dict(zip(there, likelihoods(self.subject, [pairs[i] for i in there], self._what), strict=True))
        return [found.get(i, (0.0, False)) for i in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        policy, pairs, owner = self.subject.policy, [], []
        room = (context_of(policy.model) or 2048) - 1
        for i, request in enumerate(requests):
            ids = policy.chat.further(request.args[0], "")
            windows: Any = get_rolling_token_windows(ids, self._beginning, max_seq_len=room, context_len=1)
            pairs += (made := [make_disjoint_window(window) for window in windows])
            owner += [i] * len(made)
        sums = np.zeros(len(requests))
        for i, (logp, _) in zip(owner, likelihoods(self.subject, pairs, self._what), strict=True):
            sums[i] += logp
        return sums.tolist()

    def generate_until(self, requests: list[Instance]) -> list[str]:
        groups: dict[str, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            groups[json.dumps(_kwargs(request), sort_keys=True, default=str)].append(i)
        made = [""] * len(requests)
        for kwargs, members in groups.items():
            sampling, until = self._decoding(json.loads(kwargs))
            there = [i for i in members if self._has_room(requests[i], sampling.max_new_tokens)]
            for i, text in zip(there, self._written([requests[i] for i in there], sampling, until), strict=True):
                made[i] = cut(text, until)
        return made

    # What the policy does.

    def _written(self, requests: Sequence[Instance], sampling: Sampling, until: Sequence[str]) -> list[str]:
        """An answer to each request; repeated requests get different ones where decoding draws them."""
        prompts = [self._messages(request.args[0]) for request in requests]
        if not prompts:
            return []
        distinct, most = list(dict.fromkeys(prompts)), max(Counter(prompts).values())
        sampling = sampling.model_copy(update={"n": most if sampling.temperature else 1})
        tell = self.subject.progress(self._what)
        seed = seed_of(self.subject.ctx.seed, "benchmarks")
        answers: dict[Messages, list[str]] = defaultdict(list)
        for done in self.subject.generator().generate(distinct, sampling, seed, tell, until):
            answers[distinct[done.prompt]].append(done.text)
        return [answers[prompt].pop(0) if sampling.n > 1 else answers[prompt][0] for prompt in prompts]

    def _decoding(self, kwargs: Mapping[str, Any]) -> tuple[Sampling, list[str]]:
        """How an answer is drawn, and the texts that end it."""
        if unknown := sorted(kwargs.keys() - DECODING):
            raise CheckError(f"benchmark {self.benchmark.name!r} decodes by {unknown[0]!r}, which is not known here")
        draws = kwargs.get("do_sample", kwargs.get("temperature", 0.0) > 0)
        sampling = Sampling(
            temperature=kwargs.get("temperature", 1.0) if draws else 0.0, top_p=kwargs.get("top_p", 1.0),
            top_k=kwargs.get("top_k", 0),
            max_new_tokens=self.benchmark.max_new_tokens or int(kwargs.get("max_gen_toks", NEW_TOKENS)),
        )  # fmt: skip
        until = kwargs.get("until") or []
        return sampling, [end for end in ([until] if isinstance(until, str) else until) if end]

    def _has_room(self, request: Instance, new_tokens: int) -> bool:
        if not self.subject.weights:
            return True  # What fits is the server's business.
        return self._fits(request, len(self.subject.policy.chat.prompt(self._messages(request.args[0]))) + new_tokens)

    def _fits(self, request: Instance, tokens: int) -> bool:
        context = context_of(self.subject.policy.model)
        if context is None or tokens <= context:
            return True
        self.too_long[str(request.task_name), int(request.doc_id or 0)] = tokens
        return False


def _kwargs(request: Instance) -> dict[str, Any]:
    """How a task wants an answer to be written."""
    arguments: Any = request.args
    return arguments[1]
