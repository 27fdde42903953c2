"""The plugins that CONTRIBUTING.md shows are loaded and used as they stand there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from align import registry
from align.config import Data
from align.data import formats, load, read_file
from align.evals.registry import METRICS
from align.machine import Machine
from align.plugins import forget_plugins, load_plugin
from align.records import Demonstration, Message, Prompt, Sample
from align.rewards.base import REWARDS
from align.stage import Context
from align.store import Store

GUIDE = Path(__file__).parent.parent / "CONTRIBUTING.md"
SHOWN = {
    name: f"{code}\n"
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)\n```", GUIDE.read_text(), flags=re.DOTALL)
}
ROW = {"dialogue": "A: Lunch? B: Yes.", "summary": "They agree on lunch."}


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """All of them, loaded, and forgotten afterwards."""
    monkeypatch.setattr(formats, "FORMATS", dict(formats.FORMATS))
    forget_plugins()
    for name, code in SHOWN.items():
        (tmp_path / name).write_text(code)
        load_plugin(tmp_path / name)
    yield
    forget_plugins()


def test_the_guide_shows_a_stage_a_reward_a_metric_and_a_format():
    assert list(SHOWN) == ["shorten.py", "shouting.py", "asks_back.py", "dialogsum.py"]


def test_the_format_reads_its_rows(plugins, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    (record,) = load(Data(path="rows.jsonl"), 0, tmp_path)
    assert isinstance(record, Demonstration)
    assert record.messages == (Message("user", ROW["dialogue"]), Message("assistant", ROW["summary"]))


def test_the_reward_scores(plugins):
    prompt = Prompt("id", (Message("user", "Well?"),))
    assert REWARDS["shouting"]([prompt, prompt], ["Yes! No!", "Perhaps so"]) == [1.0, 0.0]


def test_the_metric_measures_prompt_by_prompt(plugins):
    replies = [("Well?", "And you?"), ("Well?", "Fine."), ("So?", "Why?")]
    samples = [Sample("id", (Message("user", asked),), reply, "me") for asked, reply in replies]
    assert METRICS["asks_back"](samples).by_prompt.tolist() == [0.5, 1.0]


def test_the_stage_runs(plugins, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    (tmp_path / "out").mkdir()
    context = Context(
        stage="short", type="shorten", key="key", seed=0, inputs={"rows": Data(path="rows.jsonl")},
        keys={"rows": "key"}, store=Store(tmp_path / "runs"), machine=Machine(), work=tmp_path, out=tmp_path / "out",
        base=tmp_path,
    )  # fmt: skip
    stage = registry.stage("shorten").model_validate({"data": "$rows", "words": 2})
    assert stage.run(context) == {"rows": 1}
    (record,) = read_file(tmp_path / "out" / "records.jsonl")
    assert record.messages[-1].content == "They agree"
