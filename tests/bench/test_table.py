"""The table of saved figures, and the lines of the terminal, from figures by hand."""

from align.bench.table import lines, markdown

ROW = {
    "device": "a processor", "examples_per_second": [25.0, 24.0, 26.0], "tokens_per_second": [5500.0, 5280.0, 5720.0],
    "useful_utilisation": [0.41, 0.4, 0.42], "matrix_rate": [85e9, 84e9, 86e9], "mfu": None, "phases": {},
    "peak_bytes": 600 * 2**20, "parts": {"matrices": 0.75, "python": 0.25}, "times_faster": [1.86, 1.8, 1.9],
    "trl": {"setting": "micro-batch 1", "peak_bytes": 750 * 2**20}, "loss_difference": 1.2e-6,
    "as_it_comes": {"setting": "micro-batch 16", "peak_bytes": 2000 * 2**20, "times_faster": 5.1},
}  # fmt: skip


def test_a_row_says_how_it_compares_to_trl_at_its_fastest_and_as_it_comes():
    row = markdown([{"command": "align bench dpo", "tasks": {"dpo": ROW}}]).splitlines()[-1]
    assert row == (
        "| dpo | 25 [24, 26] | 5,500 [5,280, 5,720] | 0.41 | 600 MB | **1.9** times as fast; micro-batch 1, 750 MB | "
        "**5.1** times as fast; micro-batch 16, 2,000 MB | `align bench dpo` |"
    )


def test_lines_say_the_same():
    said = lines("dpo", ROW)
    assert said[2] == "  time: matrices 75%, python 25%"
    assert said[3].startswith("  TRL at its fastest (micro-batch 1) takes 1.86 [1.8, 1.9] times as long, with 750 MB")
    assert said[4] == "  TRL as it comes (micro-batch 16) takes 5.1 times as long, with 2,000 MB"
