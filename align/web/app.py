"""The routes of the page. Whoever knows the token in the address, and asks from this page, may read and vote."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from importlib.resources import files
from typing import Any, TypeVar

from pydantic import Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from align.errors import AlignError
from align.records import Messages
from align.web.desk import Ballot, Chat, Desk, Person
from align.web.items import Item
from align.web.results import Outcome, summary
from align.web.votes import Vote

P = TypeVar("P", bound=Person)
STATIC = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
MOST_BYTES = 1_000_000
"""Of a request: a correction is text that somebody typed."""
HEADERS = {
    # Model text is untrusted. The page writes it as text only, and should that ever fail, nothing of it may run, load,
    # or leave: no inline code, no other address, no string that becomes markup.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types "
    "'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Said(Person):
    """What a person says in a chat."""

    text: str = Field(min_length=1, max_length=100_000)


def application(desk: Desk, outcome: Outcome, token: str, hosts: frozenset[str]) -> ASGIApp:
    """The page at `/<token>/`. hosts: the values of the Host header that mean this server, such as `127.0.0.1:8000`."""
    page = _Page(desk, outcome)
    routes = [Route("/" if name == "page.html" else f"/{name}", _static(name, kind)) for name, kind in STATIC.items()]
    routes += [
        Route("/api/state", page.state, methods=["POST"]),
        Route("/api/vote", page.vote, methods=["POST"]),
        Route("/api/undo", page.undo, methods=["POST"]),
        Route("/api/results", page.results, methods=["POST"]),
    ]
    if isinstance(desk, Chat):
        routes += [
            Route("/api/say", page.say, methods=["POST"]),
            Route("/api/restart", page.restart, methods=["POST"]),
        ]
    refusals: dict[Any, Any] = {AlignError: _refused(409), ValidationError: _refused(422), OSError: _refused(507)}
    return Guard(Starlette(routes=[Mount(f"/{token}", routes=routes)], exception_handlers=refusals), token, hosts)


class Guard:
    """Lets through what knows the token and comes from this page or from the address bar."""

    def __init__(self, app: ASGIApp, token: str, hosts: frozenset[str]):
        self.app, self.token, self.hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        refusal = self._refusal(Request(scope))
        await (Response(refusal[1] + "\n", refusal[0]) if refusal else self.app)(scope, receive, sending)

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if host not in self.hosts:  # a name that was made to point here (DNS rebinding)
            return 421, "this page is at a loopback address"
        given = request.url.path.split("/")[1]
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            return 404, "not found; the address that was printed has a token"
        if origin not in (None, f"http://{host}"):
            return 403, "another page may not ask"
        return self._refusal_of_act(request) if request.method == "POST" else None

    def _refusal_of_act(self, request: Request) -> tuple[int, str] | None:
        """What only a POST can do wrong; all that is worth reading or changing takes one."""
        if "origin" not in request.headers or request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return 403, "only the page itself may ask this"
        if request.headers.get("content-type") != "application/json":
            return 415, "votes are JSON"
        length = request.headers.get("content-length", "")
        if not (length.isdigit() and int(length) <= MOST_BYTES):
            return 413, f"at most {MOST_BYTES:,} bytes"
        return None


class _Page:
    """The handlers. All run in one event loop, so no two touch the desk at once; models answer beside it, in turn."""

    def __init__(self, desk: Desk, outcome: Outcome):
        self.desk, self.outcome = desk, outcome
        self.writing = asyncio.Lock()

    async def state(self, request: Request) -> Response:
        return self._state((await _read(request, Person)).annotator)

    async def vote(self, request: Request) -> Response:
        ballot = await _read(request, Ballot)
        self.desk.vote(ballot)
        self.outcome.export()
        return self._state(ballot.annotator)

    async def undo(self, request: Request) -> Response:
        person = await _read(request, Person)
        taken = self.desk.undo(person.annotator)
        self.outcome.export()
        return self._state(person.annotator, taken)

    async def results(self, request: Request) -> Response:
        person = await _read(request, Person)
        found = await run_in_threadpool(summary, self.outcome.log.standing(), self.outcome.ties)
        if self.desk.total is not None and self.desk.pending(person.annotator) is not None:
            # Who is ahead would be in the mind of everybody who still votes.
            del found["win_rates"]
        return JSONResponse(found | {"entries": self.outcome.entries()})

    async def say(self, request: Request) -> Response:
        said = await _read(request, Said)
        assert isinstance(self.desk, Chat)
        async with self.writing:
            await run_in_threadpool(self.desk.say, said.annotator, said.text)
        return self._state(said.annotator)

    async def restart(self, request: Request) -> Response:
        person = await _read(request, Person)
        assert isinstance(self.desk, Chat)
        self.desk.restart(person.annotator)
        return self._state(person.annotator)

    def _state(self, annotator: str, taken: Vote | None = None) -> Response:
        """What the screen shows."""
        item = self.desk.pending(annotator)
        return JSONResponse({
            "kind": "chat" if isinstance(self.desk, Chat) else "poll",
            "done": self.desk.done(annotator),
            "total": self.desk.total,
            "undoable": self.desk.done(annotator) > 0,
            "prompt": _turns(item.prompt if item else self.desk.conversation(annotator)),
            "item": item and self._item(annotator, item),
            "draft": taken and self._draft(taken),
        })  # fmt: skip

    def _item(self, annotator: str, item: Item) -> dict[str, Any]:
        """The item without a word on who wrote what."""
        replies = [item.replies[i] for i in self.desk.shown(annotator, item)]
        return {
            "id": item.id,
            "replies": [
                {"turns": _turns(r.messages), "unfinished": r.unfinished, "shared": len(r.sources) > 1} for r in replies
            ],
        }

    def _draft(self, taken: Vote) -> dict[str, Any]:
        """What was typed into a vote that was taken back."""
        corrects = None if taken.corrects is None else taken.shown.index(taken.corrects)
        return {
            "comment": taken.comment,
            "flagged": taken.flagged,
            "correction": taken.correction,
            "corrects": corrects,
        }


def _turns(messages: Messages) -> list[dict[str, str]]:
    return [message.row() for message in messages]


async def _read(request: Request, kind: type[P]) -> P:
    return kind.model_validate_json(await request.body())


def _static(name: str, media_type: str) -> Callable[[Request], Response]:
    content = files("align.web").joinpath(name).read_bytes()

    def static(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return static


def _refused(status: int) -> Callable[[Request, Exception], Response]:
    def refused(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status)

    return refused
