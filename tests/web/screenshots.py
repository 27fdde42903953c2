"""Makes the README's picture of the page: python tests/web/screenshots.py recipes/quickstart/annotate.png"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.web.pages import Server, browser

SIZE = {"width": 1280, "height": 760}
QUESTION = "How do I tell my landlord that the heating has been broken for two weeks without sounding rude?"
LETTER = """\
Say what is wrong, since when, and by when you need it fixed. Facts do the work; you can stay friendly:

"Hello Ms Brandt, the heating in our flat has not worked since 3 November. We told the caretaker on the 4th and on \
the 9th. With the nights below zero we need it repaired by Friday. Could you tell me today when somebody comes? Thank \
you."

Send it in writing, and keep a copy. If Friday passes, ask the tenants' association about a rent reduction."""
HINT = """\
Landlords are busy people, so it is important to be polite and patient. You could mention casually the next time you \
meet that it has been a little cold lately. Most landlords appreciate a kind word and will get around to it!

Remember that being rude never helps."""


def write_example(folder: Path) -> Path:
    """Replies of two policies to one prompt, and a few prompts more for the progress bar."""
    replies = [("heating", QUESTION, LETTER, "dpo"), ("heating", QUESTION, HINT, "sft")]
    replies += [(f"{i}", f"Question {i}", f"Reply of {policy}", policy) for i in range(23) for policy in ("dpo", "sft")]
    rows = [
        {"kind": "sample", "id": id, "prompt": [{"role": "user", "content": asked}], "reply": reply, "policy": policy}
        for id, asked, reply, policy in replies
    ]
    file = folder / "replies.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def main(picture: Path) -> None:
    """Votes until the example is on the screen, then takes the picture."""
    with tempfile.TemporaryDirectory() as folder, browser() as opened:
        server = Server(Path(folder), "annotate", str(write_example(Path(folder))), "--out", "votes")
        try:
            page = opened.new_page(viewport=SIZE)
            page.goto(server.address)
            page.fill("#annotator", "Ada")
            page.press("#annotator", "Enter")
            page.wait_for_selector(".reply")
            while "landlord" not in page.inner_text("#conversation"):
                before = page.inner_text("#count")
                page.keyboard.press("1")
                page.wait_for_function("before => document.getElementById('count').textContent !== before", arg=before)
            page.screenshot(path=picture)
        finally:
            server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
