"""Requests to an OpenAI-compatible server: side by side, tried again, paid for once, within a budget.

Every answer is on disk before the next request of its thread leaves, under a hash of the full request; so a killed run
loses at most the requests under way, and the same question is never paid for twice. The API's key is read from the
environment when a request leaves and is in no file, key, log or error.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from random import uniform
from typing import Any

import httpx2

from align.config import Endpoint
from align.disk import sha256_of
from align.errors import EndpointError
from align.generate.base import Progress
from align.store import Store

PATH = "chat/completions"
ATTEMPTS = 7
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between attempts: doubled each time, or what the server asks for (Retry-After), never above the longest."""
HOPELESS = 8
"""So many refusals and not one answer mean that the request itself is wrong, not what it asks."""
FINISHES = ("stop", "length", "content_filter")
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Refused:
    """The server will not answer this request, whoever asks."""

    why: str


Answer = dict[str, Any] | Refused
"""The first choice of a response, with `message` and `finish_reason`, and perhaps `logprobs`; or that there is none."""


@dataclass
class Spending:
    """What a server was asked since it was opened. Answers that were on disk cost nothing."""

    sent: int = 0
    answered: int = 0
    cached: int = 0
    retried: int = 0
    refused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def cost(self, endpoint: Endpoint) -> float:
        """In the currency of the prices; 0 where none are known."""
        price = endpoint.price
        return (self.input_tokens * price.input + self.output_tokens * price.output) / 1e6 if price else 0.0


class Server:
    """One endpoint: `ask` it. `name` is what people call it, `note` tells them something."""

    def __init__(self, endpoint: Endpoint, store: Store, name: str, note: Callable[[str], None]):
        self.endpoint, self.name, self.note = endpoint, name, note
        self.spent = Spending()
        self._guard, self._stop = threading.Lock(), threading.Event()
        key = sha256_of([endpoint.endpoint, endpoint.name])[:32]
        self._file = store.cached("endpoints", key, _empty) / "answers.sqlite"

    def ask(self, bodies: Sequence[dict[str, Any]], progress: Progress | None = None) -> list[Answer]:
        """The answer to each request, from disk or from the server. Raises EndpointError where none can be had.

        Whatever ends it early, answers under way are waited for and kept.
        """
        keys = [sha256_of(body) for body in bodies]
        tell = progress or (lambda done, total: None)
        with closing(self._open()) as memory:
            found: dict[str, Answer] = {key: answer for key in set(keys) if (answer := _kept(memory, key))}
            self.spent.cached += len(found)
            wanted = {key: body for key, body in zip(keys, bodies, strict=True) if key not in found}
            tell(len(found), len(found) + len(wanted))
            if wanted:
                found |= self._asked(wanted, memory, lambda done: tell(len(found) + done, len(found) + len(wanted)))
        return [found[key] for key in keys]

    def _asked(
        self, wanted: dict[str, dict[str, Any]], memory: sqlite3.Connection, tell: Callable[[int], None]
    ) -> dict[str, Answer]:
        self._stop.clear()
        address, limits = self.endpoint.endpoint.rstrip("/") + "/", httpx2.Limits(max_connections=None)
        waiting, running = iter(wanted.items()), dict[Future[Answer], str]()
        made: dict[str, Answer] = {}
        with (
            httpx2.Client(base_url=address, timeout=self.endpoint.timeout, limits=limits) as client,
            ThreadPoolExecutor(self.endpoint.concurrency) as pool,
        ):
            try:
                while len(made) < len(wanted):
                    for key, body in islice(waiting, self.endpoint.concurrency - len(running)):
                        running[pool.submit(self._answer, client, memory, key, body)] = key
                    done, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
                    made |= {running.pop(future): future.result() for future in done}
                    self._give_up_on(made)
                    tell(len(made))
            finally:
                self._stop.set()  # whoever pauses before another attempt
        return made

    def _give_up_on(self, made: dict[str, Answer]) -> None:
        if self.spent.answered or self.spent.cached or len(made) < HOPELESS:
            return
        why = next(answer.why for answer in made.values() if isinstance(answer, Refused))
        raise EndpointError(f"{self.name}: the server refuses every request: {why}")

    def _answer(self, client: httpx2.Client, memory: sqlite3.Connection, key: str, body: dict[str, Any]) -> Answer:
        """Asks until there is an answer, and puts it on disk."""
        trouble = ""
        for attempt in range(ATTEMPTS):
            self._reserve(again=attempt > 0)
            answer, trouble, pause = self._attempt(client, body)
            if isinstance(answer, Refused):
                with self._guard:
                    self.spent.refused += 1
                return answer
            if answer is not None:
                return self._keep(memory, key, body, answer)
            doubled = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * uniform(0.75, 1.25)  # not all at once again
            if attempt + 1 < ATTEMPTS and self._stop.wait(doubled if pause is None else min(pause, LONGEST_PAUSE)):
                break
        raise EndpointError(
            f"{self.name}: no answer from {self.endpoint.endpoint} in {ATTEMPTS} attempts; the last: {trouble}. "
            "Answers so far are kept: run it again once the server is well"
        )

    def _attempt(
        self, client: httpx2.Client, body: dict[str, Any]
    ) -> tuple[dict[str, Any] | Refused | None, str, float | None]:
        """(response, what went wrong, seconds that the server asks to wait)."""
        secret = os.environ.get(self.endpoint.key_variable, "")
        try:
            response = client.post(PATH, json=body, headers={"Authorization": f"Bearer {secret}"} if secret else {})
        except httpx2.RequestError as error:
            return None, f"{type(error).__name__}: {error}", None
        status, said = response.status_code, _message(response)
        said = said.replace(secret, "***") if secret else said
        if status == 200:
            try:
                return _checked(response.json()), "", None
            except ValueError as error:
                return None, f"not a chat completion ({error}): {said}", None
        if status in (408, 409, 425, 429) or status >= 500:
            return None, f"HTTP {status}: {said}", _retry_after(response)
        if status in (400, 413, 422):
            return Refused(f"HTTP {status}: {said}"), "", None
        variable = self.endpoint.key_variable
        hints = {
            401: f"; {variable} is {'wrong' if secret else 'not set'}",
            404: f"; is the address right, and is {self.endpoint.name!r} what the server calls the model?",
        }
        raise EndpointError(f"{self.name}: HTTP {status} from {self.endpoint.endpoint}: {said}{hints.get(status, '')}")

    def _reserve(self, again: bool) -> None:
        """Counts a request before it leaves. Raises EndpointError where it would be beyond the budget."""
        budget = self.endpoint.budget
        with self._guard:
            spent, tokens = self.spent, self.spent.input_tokens + self.spent.output_tokens
            over = ""
            if budget.requests is not None and spent.sent >= budget.requests:
                over = f"{budget.requests:,} requests"
            elif budget.tokens is not None and tokens >= budget.tokens:
                over = f"{budget.tokens:,} tokens"
            elif budget.cost is not None and spent.cost(self.endpoint) >= budget.cost:
                over = f"a cost of {budget.cost:g}"
            if over:
                raise EndpointError(
                    f"{self.name}: the budget of {over} is used up ({self.said()}). Answers so far are kept: raise "
                    "budget and run it again to go on from there"
                )
            spent.sent += 1
            spent.retried += again

    def _keep(
        self, memory: sqlite3.Connection, key: str, body: dict[str, Any], response: dict[str, Any]
    ) -> dict[str, Any]:
        choice, usage = response["choices"][0], response.get("usage") or {}
        kept = {"choice": choice, "usage": usage}
        with self._guard:
            memory.execute("replace into answers values (?, ?, ?)", (key, json.dumps(body), json.dumps(kept)))
            self.spent.answered += 1
            self.spent.input_tokens += usage.get("prompt_tokens") or 0
            self.spent.output_tokens += usage.get("completion_tokens") or 0
        return choice | {"usage": usage}

    def said(self) -> str:
        """What was asked so far, for people."""
        spent = self.spent
        counts = {"answers": spent.answered, "kept from before": spent.cached, "retries": spent.retried,
                  "refused": spent.refused, "tokens in": spent.input_tokens, "out": spent.output_tokens}  # fmt: skip
        words = [f"{count:,} {what}" for what, count in counts.items() if count]
        cost = [f"cost {spent.cost(self.endpoint):.4g}"] if self.endpoint.price else []
        return ", ".join(words + cost) or "nothing asked"

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, 60, isolation_level=None, check_same_thread=False)


def _empty(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "answers.sqlite", isolation_level=None)) as memory:
        memory.execute("create table answers (key primary key, request, response)")


def _kept(memory: sqlite3.Connection, key: str) -> Answer | None:
    row = memory.execute("select response from answers where key = ?", (key,)).fetchone()
    if row is None:
        return None
    kept = json.loads(row[0])
    return kept["choice"] | {"usage": kept["usage"]}


def _checked(response: Any) -> dict[str, Any]:
    """The response, if it is a chat completion. Raises ValueError."""
    try:
        choice = response["choices"][0]
        content, finish = choice["message"].get("content"), choice["finish_reason"]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if content is not None and not isinstance(content, str):
        raise ValueError(f"content is of type {type(content).__name__}")
    if finish not in FINISHES:
        raise ValueError(f"finish_reason {finish!r}, which is none of {', '.join(FINISHES)}")
    return response


def _message(response: httpx2.Response) -> str:
    """What the body says, in one short line."""
    try:
        said = response.json()
        said = said.get("error", said.get("message", said))
        said = said.get("message", said) if isinstance(said, dict) else said
    except (ValueError, AttributeError):
        said = response.text
    return " ".join(str(said).split())[:300] or "an empty body"


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds to wait: the header holds them, or a date."""
    said = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None
