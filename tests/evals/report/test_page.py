"""The page as a file: what it holds, that it needs nothing else, and that other people's text stays text."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from align.evals.report.material import of_folder
from align.evals.report.page import write
from tests.evals.report.conftest import HOSTILE, compared


class Reader(HTMLParser):
    """All elements with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


@pytest.fixture
def page(material, tmp_path):
    """Makes the page and reads it."""

    def make(of=material, **options):
        write(of, tmp_path / "deep" / "report.html", **options)
        text = (tmp_path / "deep" / "report.html").read_text("utf-8")
        return text, Reader(text)

    return make


def test_it_says_the_verdict_first(page):
    text, _ = page()
    assert "<h1>tuned beats both others by quality.</h1>" in text
    assert "same and base cannot be told apart" in text
    assert re.search(r"tuned beats base: \+0\.4 \[0\.4, 0\.4\], n = 40", text)
    assert text.index("<h1>") < text.index("<table") < text.index("<figure")


def test_it_says_how_far_judges_can_be_trusted(material, page):
    value = {"value": 0.1, "low": 0.05, "high": 0.15, "n": 40}
    told = {"pairs": 40, "unread": 1, "position_bias": value, "agreement_of_orders": None, "length": value}
    told |= {"human": {"kappa": 0.6, "low": 0.4, "high": 0.8, "n": 30, "clusters": 12}}
    text, _ = page(replace(material, found=material.found | {"judges": {HOSTILE: told}}))
    assert "How far the judges can be trusted" in text and "0.6 [0.4, 0.8], n = 30 in 12 clusters" in text
    assert "alert(1)</script>" not in text
    assert "How far the judges" not in page()[0]


def test_it_needs_no_other_file_and_lets_no_other_script_run(page):
    text, found = page()
    for tag, attributes in found.elements:
        assert tag not in ("link", "img", "iframe", "object", "base")
        assert attributes.get("src") is None and (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in re.sub(r"url\(#", "", text) and "@import" not in text
    policy = next(a["content"] for tag, a in found.elements if tag == "meta" and "http-equiv" in a)
    script = text.split("<script>")[1].split("</script>")[0]
    assert policy == (
        "default-src 'none'; style-src 'unsafe-inline'; script-src "
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_other_peoples_text_stays_text(material, page):
    """Hostile text everywhere that a template prints it: names, verdicts, notes, settings and replies."""
    found = material.found | {"notes": [HOSTILE], "settings": material.found["settings"] | {"base": HOSTILE}}
    found["policies"] = {(HOSTILE if name == "same" else name): v for name, v in found["policies"].items()}
    found["pairs"] = [
        pair | {side: HOSTILE for side in ("policy", "baseline") if pair[side] == "same"} for pair in found["pairs"]
    ]
    found["verdicts"] = [*found["verdicts"], HOSTILE]
    replies = {(HOSTILE if name == "same" else name): made for name, made in material.replies.items()}
    text, hostile = page(replace(material, title=HOSTILE, found=found, replies=replies))
    assert "alert(1)</script>" not in text and "<img" not in text
    assert sum(tag == "script" for tag, _ in hostile.elements) == 2
    assert "&lt;script&gt;alert(1)" in text


def test_what_is_absent_is_left_out(material, page):
    _, whole = page()
    _, bare = page(replace(material, found=material.found | {"pairs": [], "verdicts": []}, replies={}))
    sections = [[a["id"] for tag, a in found.elements if tag == "section"] for found in (whole, bare)]
    assert sections[0] == ["metrics", "differences", "frontier", "replies", "distributions", "method"]
    assert sections[1] == ["metrics", "frontier", "method"]


def test_every_link_inside_leads_somewhere_and_every_id_is_there_once(page):
    _, found = page()
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in found.elements if tag == "a"} <= set(ids)


def test_charts_go_beside_it_on_request(page, tmp_path):
    page(figures=tmp_path / "figures")
    kept = {file.name for file in (tmp_path / "figures").iterdir()}
    assert {"difference-quality.png", "difference-quality.csv", "wins-refusal.csv", "frontier-quality.png"} <= kept


def test_one_policy_alone_has_a_page(material, page, tmp_path):
    text, _ = page(of_folder(compared(tmp_path / "alone", {"base": material.replies["base"]}), "alone"))
    assert "<h1>base reaches 0.3 by quality.</h1>" in text


def test_clusters_are_told_where_there_are_some(material, tmp_path):
    found = material.found | {"settings": material.found["settings"] | {"clusters": 9}}
    write(replace(material, found=found), tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "40 prompts in 9 clusters, one reply to each" in text and "whole clusters" in text
    write(material, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "40 prompts, one reply to each" in text and "whole clusters" not in text
