"""The page in a real browser: a server in its own process, and Debian's chromium."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless chromium, which has a fresh profile."""
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()


class Server:
    """`align annotate` or `align chat --page` in a folder, until it is killed."""

    def __init__(self, folder: Path, *arguments: str):
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "align", *arguments, "--no-open"],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"COLUMNS": "200", "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("http://127.0.0.1:"):
                self.address = line.strip()
                return
        raise AssertionError("".join(said))

    def kill(self) -> None:
        """Like a power cut for the process."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=20)

    def stop(self) -> str:
        """Like Ctrl-C; returns what it said at the end."""
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate(timeout=20)[0]
