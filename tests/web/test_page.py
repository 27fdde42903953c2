"""The page in a real browser: voting, reloading, taking back, two people, hostile text, and a server that is killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.data import read_file, write
from align.records import Demonstration, Preference, Sample
from tests.web.conftest import say

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"


def preference(number: int, good: str = "", bad: str = "") -> Preference:
    replies = (say(good or f"good {number}", "assistant"), say(bad or f"bad {number}", "assistant"))
    return Preference(str(number), say(f"{number}?"), *replies)


@pytest.fixture
def start(tmp_path):
    """Starts `align annotate` on records, and kills what is left of it."""
    from tests.web.pages import Server

    started = []

    def make(*records, name="records.jsonl") -> Server:
        if records:
            write(records, tmp_path / name)
        started.append(Server(tmp_path, "annotate", name, "--out", "votes"))
        return started[-1]

    yield make
    for server in started:
        server.kill()


@pytest.fixture
def visit(chromium):
    """Opens the page in a fresh profile as somebody, and holds it to not complaining and to asking nobody else."""
    contexts, complaints = [], []

    def make(address: str, name: str):
        contexts.append(chromium.new_context(viewport={"width": 1200, "height": 800}))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda told: complaints.append(told.text) if told.type == "error" else None)
        page.on("request", lambda asked: None if asked.url.startswith(address) else complaints.append(asked.url))
        page.goto(address)
        page.fill("#annotator", name)
        page.keyboard.press("Enter")
        page.wait_for_selector("#work:not([hidden])")
        return page

    make.complaints = complaints
    yield make
    for context in contexts:
        context.close()
    assert not complaints


def counts(page, said: str) -> None:
    """Waits until the count says so."""
    page.wait_for_function("said => document.getElementById('count').textContent === said", arg=said)


def kept(folder: Path, name: str = "preferences") -> list:
    return list(read_file(folder / "votes" / f"{name}.jsonl"))


def results(page) -> str:
    page.keyboard.press("r")
    page.wait_for_selector("#results table")
    return page.inner_text("#results")


def press_better(page, word: str = "good") -> None:
    """Presses the key of the reply that has the word in it."""
    page.keyboard.press("1" if word in page.inner_text("#reply-0") else "2")


def test_vote_reload_undo_and_go_on_after_a_kill(start, visit, tmp_path):
    server = start(*map(preference, range(4)))
    page = visit(server.address, "ann")
    counts(page, "0 of 4")
    press_better(page)
    counts(page, "1 of 4")
    page.reload()  # the tab remembers who it is
    counts(page, "1 of 4")
    page.keyboard.press("=")
    counts(page, "2 of 4")
    page.keyboard.press("u")
    counts(page, "1 of 4")
    press_better(page)
    counts(page, "2 of 4")

    server.kill()
    page.keyboard.press("1")
    page.wait_for_selector("#problem:not([hidden])")
    assert "votes are saved" in page.inner_text("#problem")
    visit.complaints.clear()  # the browser says that the connection was refused
    page = visit(start().address, "ann")
    counts(page, "2 of 4")
    press_better(page)
    counts(page, "3 of 4")
    press_better(page)
    page.wait_for_selector("#over:not([hidden])")
    made = kept(tmp_path)
    assert len(made) == 4
    assert all(one.chosen[0].content == f"good {one.id}" and one.label == 1 for one in made)


def test_two_people_vote_apart_and_their_agreement_is_shown(start, visit, tmp_path):
    server = start(*map(preference, range(3)))
    for name, words in (("ann", "good"), ("bob", "bad")):
        page = visit(server.address, name)
        counts(page, "0 of 3")
        for done in range(3):
            press_better(page, "good" if page.inner_text("#conversation") == "0?" else words)
            counts(page, f"{done + 1} of 3")
    shown = results(page)
    assert "Cohen's kappa" in shown and "33 % of votes on the same pair are equal, n = 3" in shown
    assert "chosen over rejected" in shown
    assert f"path: {tmp_path / 'votes' / 'preferences.jsonl'}" in shown
    ended = server.stop()
    assert "ann 3, bob 3" in ended and "2 even pairs left out" in ended
    assert json.loads((tmp_path / "votes" / "results.json").read_text())["agreement"]["n"] == 3
    assert [one.id for one in kept(tmp_path)] == ["0"]


def test_hostile_text_is_text(start, visit, tmp_path):
    hostile = preference(0, f"good {HOSTILE}", "bad")
    server = start(Preference("0", say(HOSTILE), hostile.chosen, hostile.rejected))
    page = visit(server.address, HOSTILE[-40:])
    assert page.inner_text("#conversation") == HOSTILE
    assert page.locator("#work script, #work img").count() == 0
    page.keyboard.press("e")
    page.fill("#correction", HOSTILE)
    page.keyboard.press("Control+Enter")
    counts(page, "1 of 1")
    assert HOSTILE[-40:] in results(page)
    assert page.locator("#results img").count() == 0
    assert page.title() == "align"
    # Were it written as markup, the policy would stop it.
    stopped = page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>' } catch (error) { return error.name } }"
    )
    assert stopped == "TypeError"
    visit.complaints.clear()
    (made,) = kept(tmp_path, "demonstrations")
    assert isinstance(made, Demonstration) and made.messages[-1].content == HOSTILE


def test_ranking_several_with_ties_a_flag_and_a_comment_by_keyboard_alone(start, visit, tmp_path):
    rows = [Sample("0", say("0?"), reply, policy) for reply, policy in (("x", "a"), ("y", "b"), ("z", "c"))]
    page = visit(start(*rows).address, "ann")
    screen = [page.inner_text(f"#reply-{i} .turn") for i in range(3)]
    for key in ("3", "=", "1", "Backspace", "Enter", "2"):  # the tie is taken back; not all are ranked yet
        page.keyboard.press(key)
    assert page.inner_text("#order") == "3 > 2 > …"
    for key in ("=", "1"):
        page.keyboard.press(key)
    assert page.inner_text("#order") == "3 > 2 = 1"
    page.keyboard.press("c")
    page.keyboard.type("2 and 1 are close")  # digits in a comment are no votes
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    counts(page, "1 of 1")
    made = kept(tmp_path)
    assert {(one.chosen[0].content, one.rejected[0].content) for one in made} == {
        (screen[2], screen[0]), (screen[2], screen[1])
    }  # fmt: skip
    page.keyboard.press("u")
    counts(page, "0 of 1")
    assert page.input_value("#comment") == "2 and 1 are close"
    page.keyboard.press("f")
    assert page.get_attribute("#flag", "aria-pressed") == "true"
    page.keyboard.press("s")
    counts(page, "1 of 1")
    assert not (tmp_path / "votes" / "preferences.jsonl").exists()
    assert '"flagged": true' in (tmp_path / "votes" / "votes.jsonl").read_text()


def test_a_chat_with_two_served_models_goes_on_with_the_better_one(visit, tmp_path):
    from tests.generate.servers import serving
    from tests.web.pages import Server

    def reply(body):
        said = f"{body['model']} on turn {len(body['messages'])}"
        return {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}

    with serving(reply) as served:
        models = [f"{served.address}#{name}" for name in "AB"]
        server = Server(tmp_path, "chat", *models, "--page", "--out", "votes")
        try:
            page = visit(server.address, "ann")
            for turn in (1, 3):
                page.fill("#text", "and now?")
                page.keyboard.press("Enter")
                page.wait_for_selector("#reply-1")
                assert f"on turn {turn}" in page.inner_text("#reply-0")
                press_better(page, "B on")
                page.wait_for_selector("#composer:not([hidden])")
                counts(page, f"{(turn + 1) // 2} voted")
            assert page.inner_text("#conversation .turn:last-child").endswith("B on turn 3")
            page.keyboard.press("Escape")
            page.keyboard.press("n")
            page.wait_for_selector("#conversation:empty", state="attached")
        finally:
            server.kill()
    assert [one.chosen[0].content for one in kept(tmp_path)] == ["B on turn 1", "B on turn 3"]
    assert kept(tmp_path)[1].prompt[1].content == "B on turn 1"


def test_replies_stand_beside_each_other_where_there_is_room(start, visit):
    page = visit(start(preference(0)).address, "ann")

    def tops() -> list[float]:
        return [page.locator(f"#reply-{i}").bounding_box()["y"] for i in (0, 1)]

    assert tops()[0] == tops()[1]
    page.set_viewport_size({"width": 400, "height": 800})
    assert tops()[0] < tops()[1]
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
