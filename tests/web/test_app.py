"""The routes, through starlette's own client: who may ask, and what is told."""

from __future__ import annotations

import json
import os

import pytest
from starlette.testclient import TestClient

from align.config import Sampling
from align.generate.scripted import ScriptedGenerator
from align.web.app import application
from align.web.desk import Chat
from align.web.results import Outcome
from tests.web.conftest import item

HOST = "127.0.0.1:8000"
HOME = f"http://{HOST}"


def client_of(desk, tmp_path) -> TestClient:
    app = application(desk, Outcome(desk.log, tmp_path, "drop"), "secret", frozenset({HOST}))
    return TestClient(app, base_url=HOME, headers={"origin": HOME}, raise_server_exceptions=False)


@pytest.fixture
def desk(poll):
    return poll()


@pytest.fixture
def client(desk, tmp_path) -> TestClient:
    return client_of(desk, tmp_path)


def post(client, path, annotator="ann", headers=None, **body):
    return client.post(f"/secret/api/{path}", json={"annotator": annotator, **body}, headers=headers)


def cast(client, annotator="ann", **fields):
    pending = post(client, "state", annotator).json()["item"]["id"]
    return post(client, "vote", annotator, item=pending, **fields)


def test_the_page_and_its_parts_are_there_and_load_nothing_else(client):
    kinds = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
    for name, kind in kinds.items():
        found = client.get(f"/secret/{name}")
        assert found.status_code == 200
        assert found.headers["content-type"].startswith(kind)
        assert "http://" not in found.text and "https://" not in found.text
        assert "default-src 'none'" in found.headers["content-security-policy"]
        assert found.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/api/state", "/secretx/", "/Secret/", "//secret/", "/secret/../", "/secret"])
def test_nothing_is_told_without_the_token(client, path):
    for found in (client.get(path, follow_redirects=False), client.post(path, json={"annotator": "ann"})):
        assert found.status_code in (404, 405, 307)
        assert "replies" not in found.text and "<script" not in found.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"host": "evil.example:8000"}, 421),
        ({"host": "127.0.0.1"}, 421),
        ({"content-type": "text/plain"}, 415),
        ({"content-length": "1000001"}, 413),
    ],
)
def test_no_other_origin_may_vote_or_read(client, desk, headers, status):
    for path in ("vote", "state", "results"):
        found = post(client, path, headers=headers)
        assert found.status_code == status
        assert "access-control-allow-origin" not in found.headers
        assert "good" not in found.text
    assert desk.log.standing() == []


def test_a_vote_without_an_origin_is_refused(client):
    del client.headers["origin"]
    assert post(client, "state").status_code == 403
    assert client.get("/secret/").status_code == 200  # typed into the address bar
    assert client.get("/secret/", headers={"origin": "http://evil.example"}).status_code == 403


def test_nobody_is_told_who_wrote_what(poll, tmp_path):
    named = poll(*(item(f"{i}?", f"good {i}", f"bad {i}") for i in range(2)))
    for one in named.items:
        for number, reply in enumerate(one.replies):
            object.__setattr__(reply, "sources", (f"policy-{number}",))
    client = client_of(named, tmp_path)
    assert "policy-" not in post(client, "state").text
    voted = cast(client, ranks=[0, 1])
    assert "policy-" not in voted.text + post(client, "results").text
    cast(client, ranks=[0, 1])
    assert "policy-" in post(client, "results").text  # once this person has voted on everything


def test_a_vote_is_on_disk_when_it_is_answered_and_the_records_are_too(client, desk, tmp_path):
    found = cast(client, ranks=[0, 1], comment="clear", seconds=2.5).json()
    assert (found["done"], found["total"], found["undoable"]) == (1, 3, True)
    (line,) = desk.log.path.read_text().splitlines()
    kept = json.loads(line)["vote"]
    assert (kept["annotator"], kept["comment"], kept["seconds"]) == ("ann", "clear", 2.5)
    assert len((tmp_path / "preferences.jsonl").read_text().splitlines()) == 1


def test_undo_shows_the_item_again_with_what_was_typed(client, desk):
    first = post(client, "state").json()["item"]
    cast(client, correction="better", corrects=1, comment="hm", flagged=True)
    found = post(client, "undo").json()
    assert found["item"] == first
    assert found["draft"] == {"comment": "hm", "flagged": True, "correction": "better", "corrects": 1}
    assert desk.log.standing() == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"ranks": [0]}, 409), ({"item": "unknown"}, 409), ({"correction": ""}, 409), ({"seconds": -1}, 422),
     ({"annotator": "  "}, 422), ({"policy": "x"}, 422), ({"ranks": "01"}, 422)],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_words(client, desk, fields, status):
    pending = post(client, "state").json()["item"]["id"]
    found = post(client, "vote", **({"item": pending, "corrects": 0 if "correction" in fields else None} | fields))
    assert (found.status_code, bool(found.json()["error"])) == (status, True)
    assert desk.log.standing() == []


def test_a_full_disk_is_told_and_counts_nothing(client, desk, monkeypatch):
    def full(file):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    found = cast(client, ranks=[0, 1])
    assert (found.status_code, found.json()["error"]) == (507, "No space left on device")
    assert desk.log.path.read_bytes() == b""
    assert post(client, "state").json()["done"] == 0


def test_a_chat_answers_and_goes_on(tmp_path, poll):
    contestants = {name: ScriptedGenerator(lambda prompt, i, name=name: f"{name}!") for name in ("A", "B")}
    client = client_of(Chat(contestants, Sampling(), poll().log, 0), tmp_path)
    said = post(client, "say", text="hello").json()
    assert {reply["turns"][0]["content"] for reply in said["item"]["replies"]} == {"A!", "B!"}
    assert post(client, "say", text="again").status_code == 409
    best = said["item"]["replies"][1]["turns"][0]
    found = cast(client, ranks=[1, 0]).json()
    assert (found["item"], found["prompt"][-1]) == (None, best)
    assert post(client, "restart").json()["prompt"] == []


def test_a_poll_has_no_chat(client):
    assert post(client, "say", text="hello").status_code == 404
