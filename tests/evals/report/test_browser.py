"""The page in a real browser: Chromium, driven by Playwright, without a network."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from align.data.files import write_rows
from align.evals.report.material import Material, of_folder
from align.evals.report.page import write
from align.records import prompt_id
from tests.evals.report.conftest import HOSTILE, compared, samples


@pytest.fixture(scope="module")
def address(material: Material, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("page") / "report.html"
    write(material, file)
    return file.as_uri()


@pytest.fixture
def page(browser, address):
    """The report, open; what the browser complained about and asked for is in `complaints`."""
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("dialog", lambda dialog: page.complaints.append(dialog.message))
    page.on("request", lambda request: page.complaints.append(request.url))
    page.goto(address)
    page.wait_for_selector(".card")
    return page


def cards(page) -> list[str]:
    return [card.inner_text().split("?")[0] for card in page.query_selector_all(".asked")]


def test_a_reader_finds_the_replies_behind_a_verdict(page, address):
    """One visit: opening, order, filters, words, marks, links, and hostile text in a reply."""
    assert page.evaluate("document.documentElement.scrollWidth") == 390, "fits a phone"
    assert page.inner_text("#count") == "40 of 40"
    assert page.input_value("[name=right]") == "1", "the checkpoint that leads is on the right"
    assert len(cards(page)) == 6
    page.click("#more")
    assert len(cards(page)) == 12

    page.select_option("[name=order]", "losses")
    assert (page.inner_text("#count"), cards(page)) == ("0 of 40", [])
    page.select_option("[name=order]", "asked")
    page.select_option("[name=only]", "cut")
    assert page.inner_text("#count") == "10 of 40"
    assert cards(page)[:3] == ["Question 0", "Question 4", "Question 8"]
    page.select_option("[name=only]", "refused")
    assert page.inner_text("#count") == "14 of 40"

    page.select_option("[name=only]", "")
    page.fill("[name=words]", "onerror")
    assert cards(page) == ["Question 3"]
    assert page.inner_text(".card .text") == f"base says so it is 3. {HOSTILE}"
    assert page.query_selector_all("img") == [] and len(page.query_selector_all("script")) == 2
    assert [mark.inner_text() for mark in page.query_selector_all("del, ins")] == ["base", "tuned"]
    assert "principle: Be kind, tuned." in page.inner_text(".card")
    page.check("[name=all]")
    assert len(page.query_selector_all(".reply")) == 3
    page.fill("[name=words]", "")

    page.click(".verdicts summary")
    page.click(".verdicts a[data-left=base][data-right=same][data-metric=refusal]")
    assert [page.input_value(f"[name={name}]") for name in ("left", "right", "metric")] == ["0", "2", "1"]
    assert page.complaints == [address], "nothing was asked for but the page, and nothing went wrong"


def test_it_can_be_read_by_keyboard_alone(page):
    """Everything that can be used or scrolled takes the focus, and has a name."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "A"
    assert page.evaluate("[...document.querySelectorAll('select, input')].every((field) => field.labels.length === 1)")
    unreachable = """[...document.querySelectorAll('*')].filter((element) =>
        /auto|scroll/.test(getComputedStyle(element).overflowX) && element.scrollWidth > element.clientWidth &&
        element.tabIndex < 0 && !element.querySelector('a')).length"""
    assert page.evaluate(unreachable) == 0
    page.focus("[name=order]")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#count") == "0 of 40"


def test_reading_goes_on_where_more_is_shown(page):
    """By keyboard, to the last card, where the button that had the focus is gone."""
    place = "[...document.querySelectorAll('.card')].indexOf(document.activeElement.closest('.card'))"
    for shown in range(6, 40, 6):
        page.focus("#more")
        page.keyboard.press("Enter")
        assert page.evaluate(place) == shown and len(cards(page)) == min(shown + 6, 40)
    assert page.is_hidden("#more")
    page.keyboard.press("Tab")
    assert page.evaluate(place) == 36, "not the top of the page"


def test_a_reply_takes_the_focus_where_it_has_to_be_scrolled(browser, tmp_path):
    long = [replace(sample, reply="so it goes on " * 2000) for sample in samples("base", 0.1)]
    folder = compared(tmp_path, {"base": long, "tuned": samples("tuned", 0.5)})
    write(of_folder(folder, "toy"), tmp_path / "report.html")
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector(".card")
    focus = "[...document.querySelectorAll('.card:first-child .text')].map((e) => [e.tabIndex, e.ariaLabel])"
    assert page.evaluate(focus) == [[0, "Reply of base"], [-1, None]]
    page.focus(".card:first-child .text")
    page.keyboard.press("End")
    page.wait_for_timeout(500)
    assert page.evaluate("document.activeElement.scrollTop") > 0


def test_paper_and_the_dark(page):
    shown = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(shown) == "rgb(20, 23, 26)"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(shown) == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.evaluate("getComputedStyle(document.querySelector('ins')).printColorAdjust") == "exact"
    visible = "document.querySelector('%s').checkVisibility()"
    assert page.evaluate(visible % ".verdicts li"), "though nobody opened them"
    assert not page.evaluate(visible % "figure summary") and not page.evaluate(visible % "#count")
    assert page.inner_text("#chosen") == (
        "6 of 40, largest wins of the right by quality: base on the left, tuned on the right."
    )
    page.emulate_media(media="screen")
    assert not page.evaluate(visible % "#chosen") and not page.evaluate(visible % ".verdicts li")
    page.select_option("[name=order]", "asked")
    page.select_option("[name=only]", "cut")
    page.fill("[name=words]", "4")
    told = "2 of 40, as they were asked, only cut off, with the words “4”: base on"
    assert page.text_content("#chosen").startswith(told)


def test_what_judges_said_and_thought_stands_below_the_replies(browser, tmp_path):
    """The judge prefers `tuned` by 0.9 on prompt 0, `base` on 1, cannot be read on 2; its thoughts are hostile."""
    folder = compared(tmp_path, {"base": samples("base", 0.1), "tuned": samples("tuned", 0.5)})
    found = json.loads((folder / "comparison.json").read_text())
    told = dict.fromkeys(("position_bias", "agreement_of_orders", "length", "human"))
    found |= {"judges": {"wise": {"pairs": 3, "unread": 1} | told}, "win_rates": [], "ratings": {}}
    (folder / "comparison.json").write_text(json.dumps(found))
    asked = [sample.prompt for sample in samples("base", 0)[:3]]
    said = [([0.8, 1.0], [f"tuned, for {HOSTILE}", "still tuned"]), ([0.5, 0.1], []), ([None, 1.0], [])]
    rows = [
        {"prompt": prompt_id(prompt), "index": 0, "policy": "tuned", "baseline": "base", "both": both, "thoughts": why}
        for prompt, (both, why) in zip(asked, said, strict=True)
    ]
    write_rows(rows, folder / "judgements" / "wise.jsonl")
    write(of_folder(folder, "toy"), tmp_path / "report.html")
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    page.select_option("[name=metric]", label="wise")
    assert cards(page) == ["Question 0"], "the largest wins of the right by the judge"
    assert page.inner_text(".judged summary") == "wise prefers tuned (0.9)"
    page.emulate_media(media="print")
    assert page.is_visible(".judged summary") and not page.is_visible(".judged h5")
    page.emulate_media(media="screen")
    page.click(".judged summary")
    shown = list(filter(None, page.inner_text(".judged").splitlines()))
    assert shown[1:] == ["with tuned as (A)", f"tuned, for {HOSTILE}", "with base as (A)", "still tuned"]
    page.select_option("[name=left]", label="tuned")
    page.select_option("[name=right]", label="base")
    assert cards(page) == ["Question 1"] and page.inner_text(".judged") == "wise prefers base (0.7)"
    page.select_option("[name=order]", "asked")
    assert page.query_selector_all(".judged")[2].inner_text() == "wise gave no verdict that could be read"
    page.select_option("[name=order]", "disagreements")
    assert cards(page) == ["Question 1"], "quality is tuned's everywhere"
