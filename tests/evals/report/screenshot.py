"""Makes the README's picture of a report, with Chromium by Playwright.

align run quickstart && python tests/evals/report/screenshot.py runs/quickstart/report.html
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

OUT = Path(__file__).parents[3] / "recipes" / "quickstart" / "report.png"
SIZE = {"width": 1180, "height": 1120}


def main(page: Path, out: Path = OUT) -> None:
    with sync_playwright() as playwright:
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-quic"])
        shown = browser.new_page(viewport=SIZE, color_scheme="light")
        shown.goto(page.absolute().as_uri())
        shown.wait_for_selector(".card")
        shown.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
