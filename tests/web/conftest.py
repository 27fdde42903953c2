"""A small poll, and the browser where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from align.records import Message, Messages
from align.web.desk import Poll
from align.web.items import Item, Reply
from align.web.votes import Log


def say(text: str, role: str = "user") -> Messages:
    return (Message(role, text),)


def item(prompt: str, *replies: str) -> Item:
    """Policies a, b, ... each gave one of the replies."""
    made = (Reply(say(reply, "assistant"), (policy,)) for reply, policy in zip(replies, "abcd", strict=False))
    return Item(say(prompt), tuple(made), prompt)


@pytest.fixture
def poll(tmp_path: Path) -> Callable[..., Poll]:
    """Makes a poll over items, by default three pairs, with its log in the test's folder."""

    def make(*items: Item, log: str = "votes.jsonl") -> Poll:
        pairs = items or tuple(item(f"{i}?", f"good {i}", f"bad {i}") for i in range(3))
        return Poll(pairs, Log(tmp_path / log), seed=0)

    return make


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="needs playwright")
    from tests.web import pages

    if not pages.CHROMIUM.exists():
        pytest.skip(f"needs {pages.CHROMIUM}: apt-get install chromium")
    with pages.browser() as opened:
        yield opened
