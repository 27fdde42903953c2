"""The page in a real browser: Chromium, driven by Playwright, without a network."""

from __future__ import annotations

import pytest

from align.evals.report import Material, write
from tests.evals.report.conftest import HOSTILE


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


def test_paper_and_the_dark(page):
    shown = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(shown) == "rgb(20, 23, 26)"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(shown) == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
