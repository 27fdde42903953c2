"""A server on a loopback address, for as long as people vote."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

import uvicorn

from align.errors import RecipeError
from align.web.app import application
from align.web.desk import Desk
from align.web.results import Outcome

LOOPBACK = "127.0.0.1"


def serve(desk: Desk, outcome: Outcome, port: int, ready: Callable[[str], None]) -> None:
    """Serves the page until it is interrupted. `ready` gets its address, which nobody can guess; port 0 is any."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
        except OSError as error:
            raise RecipeError(f"--port {port}: {error.strerror}; leave it out for a free one") from None
        listening.listen()
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(24)
        app = application(desk, outcome, token, frozenset({f"{LOOPBACK}:{port}", f"localhost:{port}"}))
        ready(f"http://{LOOPBACK}:{port}/{token}/")
        # The access log would print the token with every line.
        config = uvicorn.Config(app, access_log=False, log_level="warning", server_header=False, lifespan="off")
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            return
