"""A comparison of three policies on forty prompts, made by the code that compares, with hostile text in its replies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from align.data import write
from align.evals.compare import comparison
from align.evals.metrics import descriptions, scores
from align.evals.report.material import Material, of_folder
from align.records import Message, Sample

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> ]]> <!-- {{ 7*7 }} &lt;b&gt;"
BETTER = {"quality": "higher", "refusal": "lower"}


def samples(policy: str, quality: float, prompts: int = 40, words: str = "so it is") -> list[Sample]:
    """Replies whose quality goes up and down by prompt; each third is a refusal, each fourth is cut off."""
    return [
        Sample(
            f"p{i}", (Message("user", f"Question {i}? {HOSTILE if i == 3 else ''}"),),
            f"{policy} says {words} {i}. {HOSTILE if i == 3 else ''}", policy,
            finish="length" if i % 4 == 0 else "stop", tokens=8,
            scores={"quality": quality + (i * 7 % 5) / 10, "refusal": float(i % 3 == 0)},
            extra={"topic": "sea", "principle": f"Be kind, {policy}."},
        )
        for i in range(prompts)
    ]  # fmt: skip


def compared(folder: Path, answers: dict[str, list[Sample]]) -> Path:
    """Writes a comparison's folder: policy -> its samples."""
    measures = {name: scores(made, BETTER) | descriptions(made) for name, made in answers.items()}
    first = next(iter(answers))
    for name in list(answers)[1:]:
        measures[name]["kl"] = measures[name]["quality"]
    settings = {"n": 1, "seed": 0, "prompts": len(answers[first]), "base": first}
    for name, made in answers.items():
        write(made, folder / "replies" / f"{name}.jsonl")
    (folder / "comparison.json").write_text(json.dumps(comparison(measures, BETTER, settings, seed=0)))
    return folder


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """`tuned` is better than `base` on every prompt, `same` on none."""
    made = {"base": samples("base", 0.1), "tuned": samples("tuned", 0.5), "same": samples("same", 0.1)}
    return of_folder(compared(tmp_path_factory.mktemp("compared"), made), "toy/result")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright; tests that need it are skipped where one of them is absent."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium in PATH; CHROMIUM may name one")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-quic"])
        yield browser
        browser.close()
