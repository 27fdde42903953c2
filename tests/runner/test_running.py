"""Runs of a torch-free recipe: checks first, then what is not there, and what is told of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import align.runner
from align.errors import RecipeError
from align.launch import Workers
from align.machine import Machine
from align.recipe import outside
from align.runner import check, plan
from tests.runner.conftest import ALL, Toy


def test_a_run_makes_all_in_one_process_and_a_second_starts_none(toy: Toy, monkeypatch) -> None:
    started: list[Machine] = []

    def start(machine: Machine, **options: object) -> Workers:
        started.append(machine)
        return Workers(machine, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(align.runner, "Workers", start)
    outcome = toy.run()
    assert len(started) == 1
    assert outcome.states == {"a": "finished", "b": "finished", "c": "finished"}
    assert outcome.exit_code == 0
    assert toy.trace == ALL
    assert outcome.artifacts["b"].metrics == {"steps": 4.0}
    assert toy.store.get("toy/b") == outcome.artifacts["b"]
    assert [e["event"] for e in toy.events[:2]] == ["run_started", "stage_checked"]
    assert toy.events[0]["stages"] == {"a": "count", "b": "count", "c": "count"}
    assert toy.events[-1]["event"] == "run_finished"

    assert toy.run().states == {"a": "cached", "b": "cached", "c": "cached"}
    assert (len(started), toy.trace) == (1, ALL)


def test_a_manifest_says_what_made_it(toy: Toy) -> None:
    made = toy.run().artifacts
    manifest = made["b"].manifest
    assert manifest["inputs"] == {"after": {"name": "a", "key": made["a"].key}}
    assert (manifest["type"], manifest["version"], manifest["seed"]) == ("count", 1, 0)
    assert manifest["fields"] == {"after": "$a", "steps": 4, "gigabytes": 0.0, "bad": False}
    assert manifest["device"] == "cpu" and manifest["determinism"] == "bit-exact"
    assert set(manifest["files"]) == {"records.jsonl", "log.txt", "events.jsonl"}
    events = [json.loads(line) for line in (made["b"].path / "events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["stage_started"] + ["saved", "step"] * 4
    assert made["b"].damage() == []


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ("None", "Own.run returned None, not its metrics, a dict of names and numbers; {} where there are none"),
        ("{'loss': 'low'}", "Own.run returned {'loss': 'low'}, not its metrics"),
        ("{}", "Own makes records, but its run wrote no ctx.out / 'records.jsonl'"),
    ],
)
def test_a_stage_of_one_s_own_is_told_what_its_run_forgot(toy: Toy, result: str, error: str) -> None:
    (toy.folder / "own.py").write_text(
        "from align.stage import Stage\n\n\nclass Own(Stage):\n    name = 'own'\n    makes = 'records'\n\n"
        f"    def run(self, ctx):\n        return {result}\n"
    )
    (toy.folder / "recipe.yaml").write_text("plugins: [own.py]\nstages: {a: {stage: own}}\n")
    assert toy.run().errors["a"].startswith(error)


READS = """
from align.data.fields import DataField
from align.stage import RecordsRef, Stage


class Reads(Stage):
    name = "reads"
    makes = "report"
    data: DataField
    after: RecordsRef | None = None

    def run(self, ctx):
        return {}


class Waits(Reads):
    name = "waits"

    def check(self, ctx):
        return {"after": ctx[self.after]}
"""


def test_a_bad_row_is_told_before_anything_is_computed_whatever_the_stage_waits_for(toy: Toy) -> None:
    (toy.folder / "reads.py").write_text(READS)
    (toy.folder / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt"\n')
    (toy.folder / "recipe.yaml").write_text(
        "plugins: [kernel_stages.py, reads.py]\ndata: {bad: {path: bad.jsonl}}\nstages:\n  a: {stage: count}\n"
        "  b: {stage: reads, data: $bad}\n  c: {stage: waits, after: $a, data: $bad}\n"
    )
    outcome = toy.run()
    assert outcome.states == {"a": "skipped", "b": "failed", "c": "failed"} and toy.trace == []
    assert all(f"{toy.folder}/bad.jsonl:2: not JSON" in error for error in outcome.errors.values())


def test_an_error_is_told_with_the_plugin_s_own_line(toy: Toy) -> None:
    (toy.folder / "own.py").write_text(
        "import json\nfrom align.stage import Stage\n\n\nclass Own(Stage):\n    name = 'own'\n    makes = 'report'\n\n"
        "    def run(self, ctx):\n        return json.loads('{')\n"
    )
    (toy.folder / "recipe.yaml").write_text("plugins: [own.py]\nstages: {a: {stage: own}}\n")
    assert toy.run().errors["a"].endswith(f"({toy.folder}/own.py:10)")


def test_a_failed_stage_keeps_its_log_and_spares_the_independent(toy: Toy, monkeypatch) -> None:
    monkeypatch.setenv("FAULT", "raise:a")
    outcome = toy.run()
    assert outcome.states == {"a": "failed", "b": "skipped", "c": "finished"}
    assert outcome.exit_code == 1
    assert outcome.errors["a"].startswith(f"ValueError: broken ({toy.folder}/kernel_stages.py:")
    [failed], [skipped] = toy.told("stage_failed"), toy.told("stage_skipped")
    log = Path(failed["log"]).read_text()
    assert log.startswith("about to fail\n") and "Traceback" in log
    assert (skipped["stage"], skipped["because"]) == ("b", "'a' failed")
    assert toy.run().exit_code == 0
    assert sorted(toy.trace) == sorted(ALL)  # went on after step 2 of a


def test_a_comparison_gets_its_page(toy: Toy) -> None:
    toy.write("{stage: compared}")
    page = toy.store.root / toy.recipe().name / "report.html"
    assert toy.run().report == page and "<h1>" in page.read_text()
    assert [event["path"] for event in toy.told("report_written")] == [str(page)]
    written = page.stat().st_mtime_ns
    assert toy.run().report == page and page.stat().st_mtime_ns == written


def test_a_page_that_fails_does_not_fail_its_run(toy: Toy) -> None:
    toy.write("{stage: compared, broken: true}")
    outcome = toy.run()
    assert (outcome.exit_code, outcome.report) == (0, None)
    assert toy.told("note")[-1]["text"].startswith("no report was made: JSONDecodeError: ")


def test_all_checks_come_first_and_all_failures_are_told(toy: Toy) -> None:
    outcome = toy.run("a.bad=true", "c.bad=true")
    assert outcome.errors == {"a": "a is bad", "c": "c is bad"}
    assert outcome.states["b"] == "skipped"
    assert outcome.exit_code == 1
    assert toy.trace == []


def test_a_check_that_lacks_an_input_is_repeated_before_the_stage_runs(toy: Toy) -> None:
    outcome = toy.run("b.bad=true")
    assert toy.checks == ["a", "b", "c", "b"]
    assert outcome.states == {"a": "finished", "b": "failed", "c": "finished"}
    assert [e["pending"] for e in toy.told("stage_checked")] == [None, "a", None]
    assert not any(step.startswith("b") for step in toy.trace)


def test_a_policy_that_is_yet_to_be_made_is_checked_by_what_it_descends_from(toy: Toy) -> None:
    (toy.folder / "base").mkdir()
    (toy.folder / "base" / "config.json").write_text("{}")
    (toy.folder / "recipe.yaml").write_text(
        "plugins: [kernel_stages.py]\nmodels: {origin: {path: base}}\n"
        "stages: {a: {stage: grow, policy: $origin}, b: {stage: grow, policy: $a}, c: {stage: grow, policy: $b}}\n"
    )
    assert [figures["seen"] for figures in check(toy.recipe(), toy.store, Machine()).figures.values()] == ["base"] * 3
    made = toy.run(only="a").artifacts["a"]
    seen = check(toy.recipe(), toy.store, Machine()).figures
    assert seen == {"b": {"seen": made.key}, "c": {"seen": made.key}}


def test_check_alone_computes_nothing(toy: Toy) -> None:
    outcome = check(toy.recipe("c.gigabytes=2"), toy.store, Machine())
    assert outcome.figures == {"a": {"bytes": 0}, "b": {}, "c": {"bytes": 2e9}}
    assert toy.trace == [] and toy.store.artifacts() == []


def test_what_does_not_fit_on_the_disk_is_not_begun(toy: Toy) -> None:
    outcome = toy.run("a.gigabytes=1e9", "c.gigabytes=1e9")
    assert re.match(r"the stages will write about 2000000000\.0 GB, but .* GB free", outcome.errors["a"])
    assert outcome.states == {"a": "failed", "b": "skipped", "c": "skipped"}
    assert toy.told("run_finished")[0]["exit_code"] == len(toy.told("stage_failed")) == 1
    assert toy.trace == []


def test_stages_of_the_same_key_share_one_artifact(toy: Toy) -> None:
    outcome = toy.run("c.steps=3")
    assert outcome.states == {"a": "finished", "b": "finished", "c": "cached"}
    assert outcome.artifacts["c"] == outcome.artifacts["a"] == toy.store.get("toy/c")


def test_random_numbers_do_not_depend_on_what_the_worker_did_before(toy: Toy) -> None:
    outcome = toy.run()
    alone = Toy(toy.folder / "alone")
    texts = [(o.artifacts["c"].path / "records.jsonl").read_text() for o in (outcome, alone.run(only="c"))]
    assert texts[0] == texts[1]
    assert texts[0].endswith("False\n")  # and nobody imported torch


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_ranks_run_together_and_rank_0_speaks(toy: Toy, device: str, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    toy.write("{stage: together}")
    outcome = toy.run(processes=2, device=device)
    assert outcome.errors == {}
    made = outcome.artifacts["a"]
    assert made.metrics == {"sum": 1.0 + 2.0, "threads": 1.0}
    assert {path.name for path in made.path.glob("rank-*")} == {"rank-0", "rank-1"}
    assert [e["text"] for e in toy.told("note")] == ["rank 0"]
    assert "this is rank 0" in (made.path / "log.txt").read_text()


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_others(toy: Toy) -> None:
    toy.write("{stage: together, failing_rank: 1}")
    outcome = toy.run(processes=2, device="cpu")
    assert outcome.errors["a"].startswith("ValueError: rank 1 is broken (")
    assert "rank 1 is broken" in Path(toy.told("stage_failed")[0]["log"]).read_text()


def test_a_key_that_is_not_final_is_no_key_to_run_under(toy: Toy, monkeypatch) -> None:
    toy.write("{stage: count, after: $d}", "data: {d: {path: some/data}}")
    monkeypatch.setattr(outside.Hub, "pinned", lambda self, entry: entry)
    assert plan(toy.recipe(), toy.store).steps[0].state == "blocked"
    with pytest.raises(RecipeError, match="the hub does not answer"):
        toy.run()
