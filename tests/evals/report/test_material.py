"""What a report reads: training histories, who descends from whom, and whether its page is there already."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest

from align.data.files import write_rows
from align.errors import RecipeError
from align.evals.report import comparisons, refresh
from align.evals.report.charts import charts
from align.evals.report.material import of_artifact, of_folder, of_inputs
from align.evals.report.training import accuracies, calibrations, curves
from align.store import Store
from tests.evals.report.conftest import compared, samples

HELD_OUT = {
    "reward": {"difference": {"difference": 2.521, "low": 2.2, "high": 2.8, "n": 129}},
    "kl": {"after": {"value": 0.17}},
    "verdict": {"hacked": True, "signs": ["KL is 0.17 nats a token (max_kl 0.1)"], "steps": 6},
}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    """The store of a recipe whose stage `tuned` learned from `base` by a reward that it multiplied by 10."""
    store = Store(tmp_path / "runs")

    def commit(stage, kind, inputs, files=None, metrics=None, **fields):
        out = store.workspace(stage) / "out"
        for name, content in (files or {}).items():
            (out / name).write_text(content)
        if kind == "report":
            compared(out, {"base": samples("base", 0.1), "tuned": samples("tuned", 0.5)})
        taken = {field: {"name": name, "key": name} for field, name in inputs.items()}
        manifest = {
            "recipe": "toy", "stage": stage, "type": stage, "fields": fields, "inputs": taken, "seconds": 1.0,
            "finished": "2026-11-24T09:21:25+00:00", "device": "cpu",
        }  # fmt: skip
        return store.commit(stage, kind, metrics or {}, manifest)

    steps = [{"event": "step", "step": i, "reward_quality": float(i), "kl": i / 100, "loss": 1 / i} for i in (1, 2, 3)]
    told = [steps[0], steps[1], {"event": "note", "text": "going on"}, {**steps[1], "loss": 0.25}, steps[2]]
    files = {"events.jsonl": "\n".join(map(json.dumps, told)), "held_out.json": json.dumps(HELD_OUT)}
    commit("tuned", "policy", {"policy": "base"}, files, reward={"name": "quality", "scale": 10.0})
    sure = [{"said": 0.7, "happened": 0.75, "low": 0.3, "high": 0.95, "n": 4}]
    commit("judge", "reward", {"policy": "tuned"}, {"calibration.json": json.dumps(sure)}, metrics={
        "test_accuracy": 0.8, "test_accuracy_low": 0.7, "test_accuracy_high": 0.9,
        "length_accuracy": 0.6, "length_accuracy_low": 0.5, "length_accuracy_high": 0.7,
    })  # fmt: skip
    commit("result", "report", {"policies.0": "base", "policies.1": "tuned", "rewards.0": "judge"})
    return store


def test_parents_come_before_children_and_each_once(store):
    made = of_artifact(store.get("result"), store)
    assert made.title == "toy/result"
    assert [stage.name for stage in made.stages] == ["tuned", "judge"]


def test_of_a_step_that_a_resumed_run_repeated_the_later_counts(store):
    (tuned, _) = of_artifact(store.get("result"), store).stages
    assert tuned.curves["loss"] == ([1.0, 2.0, 3.0], [1.0, 0.25, pytest.approx(1 / 3)])
    assert tuned.notes == ["going on"]
    assert [chart.title for chart in curves(of_artifact(store.get("result"), store))] == ["tuned: loss", "tuned: kl"]


def test_the_verdict_on_a_reward_that_was_trained_on_stands_on_the_page(store, tmp_path):
    tuned, judge = of_artifact(store.get("result"), store).stages
    assert tuned.verdict == (
        "reward of 129 held-out prompts +2.52 [+2.2, +2.8] at a KL of 0.17 nats a token; signs that it was hacked: "
        "KL is 0.17 nats a token (max_kl 0.1)"
    )
    assert judge.verdict == ""
    refresh(store.get("result"), store, tmp_path / "report.html")
    assert f"<li><b>tuned</b>: {tuned.verdict}.</li>" in unescape((tmp_path / "report.html").read_text())


def test_the_way_of_training_is_in_the_units_of_the_comparison(store):
    chart = charts(of_artifact(store.get("result"), store))["frontier"][0]
    way = [(row["step"], row["kl"], row["quality"]) for row in chart.rows if row["kind"] == "training"]
    assert way == [(1, 0.01, 0.1), (2, 0.02, 0.2), (3, 0.03, pytest.approx(0.3))]


def test_reward_models_stand_beside_a_ruler(store):
    (chart,) = accuracies(of_artifact(store.get("result"), store))
    assert [(row["reward"], row["accuracy"]) for row in chart.rows] == [("judge", 0.8), ("a rule by length", 0.6)]


def test_a_tested_reward_model_shows_how_far_its_probabilities_can_be_trusted(store):
    (chart,) = calibrations(of_artifact(store.get("result"), store))
    assert chart.alt == "Calibration of judge: 75% right where 70% sure, n = 4"
    assert chart.rows == [{"said": 0.7, "happened": 0.75, "low": 0.3, "high": 0.95, "n": 4}]


def test_the_page_is_written_once_for_a_comparison(store, tmp_path):
    result, file = store.get("result"), tmp_path / "report.html"
    refresh(result, store, file)
    before = file.stat().st_mtime_ns
    refresh(result, store, file)
    assert file.stat().st_mtime_ns == before
    file.write_text(
        re.sub('name="comparison" content="[0-9a-f]+"', 'name="comparison" content="another"', file.read_text())
    )
    refresh(result, store, file)
    assert 'content="another"' not in file.read_text()


def test_a_comparison_without_a_recipe_has_a_lineage(store, tmp_path):
    made = of_inputs(
        compared(tmp_path / "alone", {"base": samples("base", 0.1)}),
        "comparison",
        {"tuned": store.get("tuned"), "base": 0},
        store,
    )
    assert [stage.name for stage in made.stages] == ["tuned"]
    assert made.lineage is not None and [taken.name for taken in made.lineage.inputs] == ["tuned", "base"]


def test_other_artifacts_and_folders_are_no_comparisons(store, tmp_path):
    assert comparisons(store.artifacts()) == [store.get("result")]
    with pytest.raises(RecipeError, match=r"no comparison\.json in it"):
        of_folder(tmp_path, "x")


def test_what_a_judge_thought_is_read_whatever_marks_are_in_it(tmp_path):
    """A separator of lines, U+2028, ends no row: texts from the web hold it."""
    compared(tmp_path, {"base": samples("base", 0.1), "tuned": samples("tuned", 0.5)})
    file = tmp_path / "comparison.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"judges": {"wise": {}}}))
    rows = [{"prompt": "1", "index": 0, "both": [0.2, 0.3], "thoughts": ["one\u2028two\x85three"]}]
    write_rows(rows, tmp_path / "judgements" / "wise.jsonl")
    assert of_folder(tmp_path, "it").judgements == {"wise": rows}
