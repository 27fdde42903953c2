"""The verb bench: refusals at once, figures that a program reads, and a table of saved ones."""

import json

import pytest

from align.bench import workload
from align.cli.bench import command
from tests.bench.test_tasks import NARROW


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dop"], "bench knows no stage 'dop'. Did you mean 'dpo'?"),
        (["dpo", "--rows", "40"], "--rows: 40 is no multiple of 16"),
        (["dpo", "--rows", "96", "--batch-size", "64"], "--rows: 96 is no multiple of 64"),
        (["dpo", "--against", "tlr"], "--against: 'tlr' is not known; there is trl"),
        (["dpo", "--dtype", "float16"], "--dtype: 'float16' is neither float32 nor bfloat16"),
        (["dpo", "--model", "huge"], "--model: 'huge' is none of tiny, llama-1b"),
        (["--table", "a.json", "b.json"], "repeat --table for b.json"),
        (["--table", "gone.json"], "--table: gone.json cannot be read"),
        (["--table", "other.json"], "--table: other.json has no 'tasks', so it was not saved by `align bench --save`"),
        (["dpo", "--data", "shor"], "--data: 'shor' is neither a file nor one of hh-like, short, long."),
    ],
)  # fmt: skip
def test_what_it_does_not_know_is_refused(align, arguments, said, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    ran = align("bench", *arguments)
    assert ran.code == 2
    assert said in ran.err


def test_figures_are_saved_and_make_a_table(align, tmp_path, monkeypatch):
    monkeypatch.setitem(workload.SHAPES, "tiny", NARROW)
    file = tmp_path / "bench.json"
    ran = align(
        "bench", "sft", "--rows", "32", "--batch-size", "32", "--data", "short", "--repetitions", "1",
        "--device", "cpu", "--threads", "1", "--save", str(file), "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    saved = json.loads(file.read_text())
    assert json.loads(ran.out) == saved
    assert saved["settings"]["rows"] == saved["settings"]["optim"]["batch_size"] == 32
    row = saved["tasks"]["sft"]
    assert row["examples"] == 32
    assert 0 < row["useful_utilisation"][0] < 1
    assert sum(row["parts"].values()) == pytest.approx(1)
    for path in (file, tmp_path):
        rows = align("bench", "--table", str(path)).out.split("\n\n")[0].splitlines()
        assert [line.split(" | ")[0] for line in rows[2:]] == ["| sft"]


def test_the_command_leaves_out_where_figures_go():
    assert command(["/bin/align", "bench", "dpo", "--save", "x.json", "--rows", "32"]) == "align bench dpo --rows 32"
