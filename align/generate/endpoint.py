"""A model behind an OpenAI-compatible server as a generator: vLLM, SGLang, or a hosted API."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import exp, inf, log
from typing import Any

import numpy as np

from align.config import Endpoint, Sampling
from align.errors import CheckError
from align.generate.base import Completion, Progress
from align.generate.server import Answer, Refused, Server
from align.records import Messages, prompt_id
from align.stage import seed_of
from align.store import Store

TOP_LOGPROBS = 20
STOPS = 4
"""Texts that end a reply, at most: more are an error at OpenAI."""
CHOICE_TOKENS = 16
"""A choice may begin with a bracket or a line break, so one token isn't enough."""
MASS = 0.5
"""The options together must be likelier than everything else, or the model did not mean to choose."""


class EndpointGenerator:
    """Answers by a server; `server.spent` says how much was asked.

    A reply has neither ids nor log-probabilities, and finish reason `refused` where the server declined.
    """

    def __init__(self, endpoint: Endpoint, store: Store, name: str, note: Callable[[str], None] = lambda text: None):
        self.server = Server(endpoint, store, name, note)
        self._logprobs = True

    def generate(
        self, prompts: Sequence[Messages], sampling: Sampling, seed: int, progress: Progress | None = None,
        until: Sequence[str] = (),
    ) -> list[Completion]:  # fmt: skip
        rows = [(i, j) for i in range(len(prompts)) for j in range(sampling.n)]
        drawn: dict[str, Any] = {"temperature": sampling.temperature, "max_tokens": sampling.max_new_tokens}
        drawn |= {"top_p": sampling.top_p} if sampling.top_p < 1 else {}
        drawn |= {"top_k": sampling.top_k} if sampling.top_k else {}
        drawn |= {"stop": list(until[:STOPS])} if until else {}
        bodies = [
            self._body(prompts[i], drawn | {"seed": seed_of(seed, prompt_id(prompts[i]), j)}) for i, j in rows
        ]  # fmt: skip
        answers = self.server.ask(bodies, progress)
        self._tell()
        return [_completion(i, j, answer) for (i, j), answer in zip(rows, answers, strict=True)]

    def choose(
        self, questions: Sequence[Messages], options: Sequence[str], progress: Progress | None = None
    ) -> np.ndarray:
        """As `Generator.choose`. Where the server tells no log-probabilities, the option that it wrote has them all."""
        if len({option.strip() for option in options}) < len(options):
            raise CheckError(f"options {', '.join(map(repr, options))} are not all different")
        answers = self._choices(questions, progress)
        made = np.full((len(questions), len(options)), np.nan)
        for i, answer in enumerate(answers):
            if not isinstance(answer, Refused) and (found := chosen(answer, options)):
                made[i] = found
        refused = sum(isinstance(answer, Refused) for answer in answers)
        unread = int(np.isnan(made).any(axis=1).sum()) - refused
        self._tell(f"{unread} of {len(questions)} answers are none of {', '.join(options)}" if unread else "")
        return made

    def _choices(self, questions: Sequence[Messages], progress: Progress | None) -> list[Answer]:
        """The answers to the questions; asked for without log-probabilities where the server won't hear of them."""
        drawn: dict[str, Any] = {"temperature": 0.0, "max_tokens": CHOICE_TOKENS}
        if self._logprobs:
            told = {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
            first = self.server.ask([self._body(question, drawn | told) for question in questions[:1]])
            if not any(isinstance(answer, Refused) and "logprobs" in answer.why for answer in first):
                return self.server.ask([self._body(question, drawn | told) for question in questions], progress)
            self._logprobs = False
            self.server.spent.refused -= 1  # it was the field that was refused, not the question
        return self.server.ask([self._body(question, drawn) for question in questions], progress)

    def _body(self, messages: Messages, drawn: dict[str, Any]) -> dict[str, Any]:
        endpoint = self.server.endpoint
        body = {"model": endpoint.name, "messages": [m.row() for m in messages]} | drawn | endpoint.options
        return {name: value for name, value in body.items() if value is not None}

    def _tell(self, more: str = "") -> None:
        server = self.server
        server.note(f"{server.name}: {'; '.join(filter(None, (server.said(), more)))}")


def _completion(prompt: int, index: int, answer: Answer) -> Completion:
    if isinstance(answer, Refused) or declined(answer):
        return Completion(prompt, index, "", (), (), "refused", 0)
    text, finish = answer["message"].get("content") or "", answer["finish_reason"]
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a character is no text
    return Completion(prompt, index, text, (), (), finish, answer["usage"].get("completion_tokens"))


def declined(choice: dict[str, Any]) -> bool:
    """Whether the server, not the model, kept an answer back."""
    return choice["finish_reason"] == "content_filter" or bool(choice["message"].get("refusal"))


def chosen(choice: dict[str, Any], options: Sequence[str]) -> list[float] | None:
    """Log-probabilities of the options, normalised, by an answer; None where it is none of them."""
    if declined(choice):
        return None
    names = [option.strip() for option in options]
    nested = any(a != b and b.startswith(a) for a in names for b in names)  # a first token can't tell 1 from 10
    tokens = (choice.get("logprobs") or {}).get("content")
    if tokens and not nested:
        return _by_probability(tokens, names)
    return _by_text(choice["message"].get("content") or "", names)


def _by_probability(tokens: list[dict[str, Any]], names: list[str]) -> list[float] | None:
    """Read at the first token with a letter or a digit: brackets, stars and line breaks may come before it.

    An option that is not among the tokens listed counts as likely as it can be at most.
    """
    first = next((token for token in tokens if re.search(r"\w", token["token"])), None)
    if first is None:
        return None
    listed = [(token["token"].strip(), exp(token["logprob"])) for token in first.get("top_logprobs") or [first]]
    mass = [0.0] * len(names)
    for text, share in listed:
        meant = [i for i, name in enumerate(names) if text and name.startswith(text)]
        if len(meant) == 1:
            mass[meant[0]] += share
    if sum(mass) <= MASS:
        return None
    most = max(0.0, min(listed[-1][1], 1 - sum(share for _, share in listed)))
    mass = [share or most for share in mass]
    return [log(share / sum(mass)) if share else -inf for share in mass]


def _by_text(text: str, names: list[str]) -> list[float] | None:
    """All on the one option that the whole answer consists of, marks around it aside."""
    said = re.sub(r"^\W+|\W+$", "", text)
    return [0.0 if name == said else -inf for name in names] if said in names else None
