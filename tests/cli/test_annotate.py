"""The verb annotate, up to where the page begins; tests/web has the rest."""

from __future__ import annotations

import json
import signal
import urllib.request

import pytest

from align.data import write
from align.records import Sample
from tests.web.conftest import say


def samples(policy: str, *replies: str) -> list[Sample]:
    return [Sample(f"{i}", say(f"{i}?"), reply, policy) for i, reply in enumerate(replies)]


@pytest.fixture
def served(monkeypatch):
    """The desk that would be on the page, and a vote on each of its items."""
    seen = []

    def serve(desk, outcome, port, ready):
        from align.web.desk import Ballot

        ready("http://127.0.0.1:1/token/")
        seen.append(desk)
        while (item := desk.pending("ann")) is not None:
            desk.vote(Ballot(annotator="ann", item=item.id, ranks=tuple(range(len(item.replies)))))

    monkeypatch.setattr("align.web.serve.serve", serve)
    return seen


def test_records_become_votes_preferences_and_lines_for_a_recipe(align, served, tmp_path):
    write([*samples("a", "x", "same", "y"), *samples("b", "z", "same", "w")], tmp_path / "replies.jsonl")
    done = align("annotate", "replies.jsonl", "--no-open")
    assert done.code == 0
    assert "left out, because all replies are the same: 1 of 3 prompts" in done.out
    assert "votes: ann 2" in done.out and "a preferred over b" in done.out and "2 preferences" in done.out
    folder = tmp_path / "annotations" / "replies.jsonl"
    assert f"preferences: {{path: {folder / 'preferences.jsonl'}}}" in done.out
    assert json.loads((folder / "results.json").read_text())["preferences"] == 2
    again = align("annotate", "replies.jsonl", "--no-open")
    assert "votes: ann 2" in again.out


def test_many_replies_are_drawn_from_and_the_rest_is_said(align, served, tmp_path):
    write([Sample("0", say("0?"), f"reply {i}", "a", index=i) for i in range(9)], tmp_path / "many.jsonl")
    done = align("annotate", "many.jsonl", "--no-open", "--replies", "2")
    assert "1 of 1 prompts have more than 2 replies; --replies shows more of them" in done.out
    assert len(served[0].items[0].replies) == 2


def test_a_comparisons_folder_is_blind_to_policies(align, served, tmp_path):
    for policy, reply in (("sft", "x"), ("dpo", "y")):
        write(samples(policy, reply), tmp_path / "kept" / "replies" / f"{policy}.jsonl")
    (tmp_path / "kept" / "comparison.json").write_text("{}")
    done = align("annotate", "kept", "--no-open", "--out", "votes")
    assert "dpo preferred over sft" in done.out
    assert (tmp_path / "votes" / "votes.jsonl").exists()


def test_what_cannot_be_voted_on_is_refused(align, tmp_path):
    assert "no such file" in align("annotate", "nothing.jsonl", "--no-open").err
    write([*samples("a", "same"), *samples("b", "same")], tmp_path / "same.jsonl")
    done = align("annotate", "same.jsonl", "--no-open")
    assert (done.code, "nothing to vote on" in done.err) == (2, True)


def test_the_server_is_on_loopback_only_and_ends_with_ctrl_c(tmp_path):
    write([*samples("a", "x"), *samples("b", "y")], tmp_path / "replies.jsonl")
    from tests.web.pages import Server

    server = Server(tmp_path, "annotate", "replies.jsonl")
    with urllib.request.urlopen(server.address) as page:
        assert b"<title>align</title>" in page.read()
    server.stop()
    assert server.process.returncode in (0, 128 + signal.SIGINT)
