"""A real HTTP server that speaks as OpenAI's chat completions do, serves a tiny model, and misbehaves when told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from align.config import Endpoint, Sampling
from align.generate.base import Generator
from align.records import messages

Reply = Callable[[dict[str, Any]], dict[str, Any]]
"""From a request's body to the first choice of the response."""


class Served(ThreadingHTTPServer):
    """`bodies` are the requests in the order in which they came, `answered` those that were answered properly."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, reply: Reply, mood: Callable[[int], str]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply, self.mood = reply, mood
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answered: list[dict[str, Any]] = []
        self.guard = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def endpoint(self, **fields: Any) -> Endpoint:
        return Endpoint(endpoint=self.address, name="tiny", **fields)


class _Handler(BaseHTTPRequestHandler):
    server: Served
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.guard:
            number = len(self.server.bodies)
            self.server.bodies.append(body)
            self.server.headers.append(dict(self.headers))
        getattr(self, "_" + self.server.mood(number))(body)

    def _fine(self, body: dict[str, Any]) -> None:
        with self.server.guard:
            choice = self.server.reply(body)
            self.server.answered.append(body)
        self._send(200, json.dumps({"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}))

    def _slow(self, body: dict[str, Any]) -> None:
        time.sleep(0.7)
        self._fine(body)

    def _cut(self, body: dict[str, Any]) -> None:
        """Promises a long answer, and hangs up within it."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')
        self.close_connection = True

    def _busy(self, body: dict[str, Any]) -> None:
        self._send(429, '{"error": {"message": "slow down"}}', {"Retry-After": "0.2"})

    def _broken(self, body: dict[str, Any]) -> None:
        self._send(503, "<html>bad gateway</html>")

    def _garbage(self, body: dict[str, Any]) -> None:
        self._send(200, "<html>please log in</html>")

    def _strange(self, body: dict[str, Any]) -> None:
        self._send(200, '{"choices": []}')

    def _refusing(self, body: dict[str, Any]) -> None:
        self._send(400, '{"error": {"message": "content policy"}}')

    def _locked(self, body: dict[str, Any]) -> None:
        self._send(401, json.dumps({"error": {"message": f"wrong key: {self.headers['Authorization']}"}}))

    def _plain(self, body: dict[str, Any]) -> None:
        """A server that knows no log-probabilities, and says so."""
        if "logprobs" in body:
            self._send(400, '{"error": {"message": "unknown field: logprobs"}}')
        else:
            self._fine(body)

    def _send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


@contextmanager
def serving(reply: Reply, mood: Callable[[int], str] = lambda number: "fine") -> Iterator[Served]:
    """A server that runs until the block ends; `mood` says how it takes the n-th request."""
    server = Served(reply, mood)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def saying(text: str, finish: str = "stop") -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}, "finish_reason": finish}


def echo(body: dict[str, Any]) -> dict[str, Any]:
    """Repeats what it was asked, so that every answer shows whose it is."""
    return saying(f"You said: {body['messages'][-1]['content']} ({body.get('seed')})")


def tiny_model(generator: Generator, policy: Any) -> Reply:
    """Answers with a model in this process, and tells the log-probabilities of its first token where asked."""

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        prompt = messages(body["messages"])
        drawn = Sampling(temperature=body["temperature"], max_new_tokens=body["max_tokens"])
        (made,) = generator.generate([prompt], drawn, body.get("seed", 0))
        told = {"logprobs": {"content": [_first(policy, prompt, body["top_logprobs"])]}} if "logprobs" in body else {}
        return saying(made.text, made.finish) | told

    return reply


@torch.no_grad()
def _first(policy: Any, prompt: Any, count: int) -> dict[str, Any]:
    logits = policy.model(input_ids=torch.tensor([policy.chat.prompt(prompt)])).logits[0, -1]
    best = logits.log_softmax(-1).topk(count)
    found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    top = [{"token": policy.chat.text([i]), "logprob": p} for i, p in found]
    return top[0] | {"top_logprobs": top}
