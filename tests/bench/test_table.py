"""The table of saved figures and the lines of the terminal, from figures by hand; the README's is of saved figures."""

import json
from pathlib import Path

from align.bench.table import lines, markdown

ROOT = Path(__file__).parents[2]
FIRST, SECOND = {"peak_bytes": 750 * 2**20}, {"peak_bytes": 2000 * 2**20}
ROW = {
    "device": "a processor", "unit": "examples", "per_second": [25.0, 24.0, 26.0],
    "tokens_per_second": [5500.0, 5280.0, 5720.0], "useful_utilisation": [0.41, 0.4, 0.42],
    "matrix_rate": [85e9, 84e9, 86e9], "mfu": None, "phases": {}, "peak_bytes": 600 * 2**20,
    "parts": {"matrices": 0.75, "python": 0.25}, "loss_difference": 1.2e-6,
    "beside": [
        {"what": "TRL at its fastest", "setting": "micro-batch 1", "times_faster": [1.86, 1.8, 1.9], **FIRST},
        {"what": "TRL as it comes", "setting": "micro-batch 16", "times_faster": [5.1] * 3, **SECOND},
    ],
}  # fmt: skip
JUDGING = {"device": "a processor", "unit": "questions", "per_second": [18.9, 18.9, 18.9]}
SAVED = {"versions": {"torch": "2.13", "datasets": "5.2"}, "date": "2026-11-24", "command": "align bench dpo"}


def test_a_row_says_how_it_compares_and_how_it_was_measured():
    other = SAVED | {"command": "python judging.py", "tasks": {"judging": JUDGING}}
    table, notes = markdown([SAVED | {"tasks": {"dpo": ROW}}, other]).split("\n\n")
    assert table.splitlines()[2:] == [
        "| dpo | 25 [24, 26] examples | 0.41 | 600 MB | **1.9 [1.8, 1.9]** TRL at its fastest, micro-batch 1, 750 MB; "
        "**5.1** TRL as it comes, micro-batch 16, 2,000 MB | [1] |",
        "| judging | 18.9 questions |  |  |  | [2] |",
    ]
    assert notes.splitlines() == [
        "1. `align bench dpo`, a processor; torch 2.13; 2026-11-24",
        "2. `python judging.py`, a processor; torch 2.13; 2026-11-24",
    ]


def test_lines_say_the_same():
    said = lines("dpo", ROW)
    assert said[0].startswith("dpo on a processor: 25 [24, 26] examples/s")
    assert said[2] == "  time: matrices 75%, python 25%"
    assert said[3] == "  TRL at its fastest (micro-batch 1) takes 1.86 [1.8, 1.9] times as long, with 750 MB"
    assert said[4] == "  TRL as it comes (micro-batch 16) takes 5.1 times as long, with 2,000 MB"
    assert said[5] == "  every step's loss is the same to 1.2e-06"


def test_the_readmes_table_is_that_of_the_saved_figures():
    files = sorted((ROOT / "recipes/bench").glob("*.json"))
    assert markdown(json.loads(file.read_text("utf-8")) for file in files) in (ROOT / "README.md").read_text("utf-8")
