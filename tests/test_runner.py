"""Runs of a torch-free recipe: what is reused, what is refused, and what is left after a kill at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

import align.runner
from align.errors import RecipeError
from align.machine import Machine
from align.plan import code_of
from align.recipe import Recipe, load, outside
from align.rewards.base import RewardField
from align.runner import Outcome, check, plan, run
from align.store import Store
from tests.kernel_stages import Count, copy_to

RECIPE = """
name: toy
plugins: [kernel_stages.py]
stages:
  a: {stage: count}
  b: {stage: count, after: $a, steps: 4}
  c: {stage: count, steps: 5}
"""

PROGRAM = """
import json, sys
from pathlib import Path
from align.machine import Machine
from align.recipe import load
from align.runner import run
from align.store import Store
outcome = run(load("recipe.yaml"), Store(Path("store")), Machine(), emit=lambda e: print(json.dumps(e), flush=True))
sys.exit(outcome.exit_code)
"""


class Toy:
    """A recipe in a folder of its own, and everything that its runs told."""

    def __init__(self, folder: Path):
        self.folder, self.store, self.events = folder, Store(folder / "store"), []
        folder.mkdir(exist_ok=True)
        copy_to(folder)
        (folder / "recipe.yaml").write_text(RECIPE)

    def write(self, stage: str, more: str = "") -> None:
        """Another recipe, of one stage called a."""
        (self.folder / "recipe.yaml").write_text(f"plugins: [kernel_stages.py]\nstages: {{a: {stage}}}\n{more}\n")

    def recipe(self, *overrides: str) -> Recipe:
        return load(self.folder / "recipe.yaml", overrides)

    def run(self, *overrides: str, processes: int = 1, device: Any = "auto", **options: Any) -> Outcome:
        self.events.clear()
        machine = Machine(processes=processes, device=device, threads=1)
        return run(self.recipe(*overrides), self.store, machine, emit=self.events.append, **options)

    def told(self, *events: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] in events]

    @property
    def trace(self) -> list[str]:
        """Every step that was computed, by all runs so far."""
        return self._lines("trace")

    @property
    def checks(self) -> list[str]:
        return self._lines("checks")

    def _lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines() if (self.folder / name).exists() else []

    @contextlib.contextmanager
    def process(self) -> Iterator[subprocess.Popen[str]]:
        """A run in a process of its own, which can be killed."""
        command = [sys.executable, "-c", PROGRAM]
        started = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True)
        with started:
            yield started
            started.kill()

    def until(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not what():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)

    def paused(self) -> int:
        """Waits until a stage pauses; the worker's process id."""
        mark = self.folder / "paused"
        self.until(lambda: mark.exists() and mark.read_text() != "")
        return int(mark.read_text())


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


ALL = [f"{name} {step}" for name, steps in (("a", 3), ("b", 4), ("c", 5)) for step in range(steps)]


def test_a_run_makes_all_and_a_second_starts_no_process(toy: Toy, monkeypatch) -> None:
    outcome = toy.run()
    assert outcome.states == {"a": "finished", "b": "finished", "c": "finished"}
    assert outcome.exit_code == 0
    assert toy.trace == ALL
    assert outcome.artifacts["b"].metrics == {"steps": 4.0}
    assert toy.store.get("toy/b") == outcome.artifacts["b"]
    assert [e["event"] for e in toy.events[:2]] == ["run_started", "stage_checked"]
    assert toy.events[0]["stages"] == {"a": "count", "b": "count", "c": "count"}
    assert toy.events[-1]["event"] == "run_finished"

    monkeypatch.setattr(align.runner, "Workers", lambda *a, **k: pytest.fail("nothing is to run"))
    assert toy.run().states == {"a": "cached", "b": "cached", "c": "cached"}
    assert toy.trace == ALL


def test_a_manifest_says_what_made_it(toy: Toy) -> None:
    made = toy.run().artifacts
    manifest = made["b"].manifest
    assert manifest["inputs"] == {"after": {"name": "a", "key": made["a"].key}}
    assert (manifest["type"], manifest["version"], manifest["seed"]) == ("count", 1, 0)
    assert manifest["fields"] == {"after": "$a", "steps": 4, "gigabytes": 0.0, "bad": False}
    assert manifest["device"] == "cpu" and manifest["determinism"] == "bit-exact"
    assert set(manifest["files"]) == {"records.jsonl", "log.txt", "events.jsonl"}
    events = [json.loads(line) for line in (made["b"].path / "events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["stage_started"] + ["step"] * 4
    assert made["b"].damage() == []


def test_a_change_runs_its_dependents_and_nothing_else(toy: Toy) -> None:
    toy.run()
    made = plan(toy.recipe("a.steps=2"), toy.store)
    assert [(s.stage, s.state, s.changed) for s in made.steps] == [
        ("a", "run", ("steps: default -> 2",)), ("b", "run", ("input after",)), ("c", "cached", ()),
    ]  # fmt: skip
    toy.run("a.steps=2")
    assert toy.trace[len(ALL) :] == ["a 0", "a 1", "b 0", "b 1", "b 2", "b 3"]
    assert {s.state for s in plan(toy.recipe(), toy.store).steps} == {"cached"}  # the old results are still there


def test_plan_warns_of_code_that_changed_under_the_same_version(toy: Toy) -> None:
    toy.run(only="a")
    assert plan(toy.recipe(), toy.store).steps[0].warning == ""
    with open(toy.folder / "kernel_stages.py", "a") as file:
        file.write("# other\n")
    step = plan(toy.recipe(), toy.store).steps[0]
    assert step.state == "cached" and "code changed under the same version 1" in step.warning
    toy.run(only="a")
    assert [e["level"] for e in toy.told("note")] == ["warning"]


def test_the_code_of_a_stage_is_that_of_its_rules_too() -> None:
    class Score(Count):
        reward: RewardField

    rules = [TypeAdapter(RewardField).validate_python(name) for name in ("length", "repetition", "toy_truth")]
    first, second, other = (code_of(Score(reward=rule)) for rule in rules)
    assert first == second != other  # rules.py, rules.py, toy.py
    assert code_of(Count()) not in ("", first, other)


def test_plan_says_why(toy: Toy, monkeypatch) -> None:
    assert [s.why for s in plan(toy.recipe(), toy.store).steps] == ["never run"] * 3
    monkeypatch.setenv("FAULT", "raise:a")
    toy.run()
    toy.store.work(_key(toy, "b")).mkdir()  # as a check leaves it, with a log or without
    first, second, third = plan(toy.recipe(), toy.store).steps
    assert first.why == "was begun and not finished; goes on"
    assert second.why == "not finished in the last run"
    assert third.why.startswith("made 20")
    assert plan(toy.recipe(), toy.store, fresh=["c"]).steps[2].why == "asked for afresh"


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


def test_until_only_and_fresh(toy: Toy) -> None:
    with pytest.raises(RecipeError, match=r"stages\.b: needs 'a', which is yet to be made"):
        toy.run(only="b")
    assert toy.run(until="a").states == {"a": "finished"}
    assert toy.run(only="b").states == {"b": "finished"}
    assert toy.run(until="b", fresh=["a"]).states == {"a": "finished", "b": "finished"}
    assert toy.trace == ALL[:7] * 2
    for wrong, message in (
        ({"until": "bb"}, "--until: no stage is called 'bb'. Did you mean 'b'"),
        ({"fresh": ["c"], "until": "a"}, "--fresh c: the stage is not among those to run"),
        ({"until": "a", "only": "b"}, "exclude each other"),
    ):
        with pytest.raises(RecipeError, match=message):
            toy.run(**wrong)


def test_fresh_forgets_what_a_killed_run_left(toy: Toy, monkeypatch) -> None:
    monkeypatch.setenv("FAULT", "raise:a")
    toy.run(until="a")
    toy.run(until="a", fresh=["a"])
    assert toy.trace == ["a 0", "a 1", "a 0", "a 1", "a 2"]


def test_what_was_made_from_a_fresh_stage_is_made_afresh(toy: Toy) -> None:
    toy.run()
    steps = plan(toy.recipe(), toy.store, fresh=["a"]).steps
    assert [(s.state, s.why) for s in steps[:2]] == [
        ("run", "asked for afresh"),
        ("run", "its input 'a' is made afresh"),
    ]
    assert steps[2].state == "cached"
    alone = plan(toy.recipe(), toy.store, only="a", fresh=["a"]).steps[0]
    assert alone.warning.startswith("it is made afresh, which outdates 'b'")
    assert toy.run("c.steps=3", fresh=["c"]).states == {"a": "finished", "b": "finished", "c": "cached"}  # a is c


def test_what_was_made_from_a_fresh_stage_is_made_afresh_by_a_later_run_too(toy: Toy) -> None:
    before = toy.run().artifacts["b"].manifest["files"]
    assert toy.run(until="a", fresh=["a"]).states == {"a": "finished"}
    assert toy.store.get("toy/b").manifest["files"] == before
    assert [s.state for s in plan(toy.recipe(), toy.store).steps] == ["cached", "run", "cached"]
    assert toy.run().states == {"a": "cached", "b": "finished", "c": "cached"}
    assert toy.run().states == {"a": "cached", "b": "cached", "c": "cached"}
    assert toy.trace == [*ALL, *ALL[:7]]


def test_an_artifact_stays_until_its_successor_is_there(toy: Toy, monkeypatch) -> None:
    before = toy.run(until="b").artifacts["a"].manifest["files"]
    monkeypatch.setenv("FAULT", "kill:a")
    assert toy.run(until="b", fresh=["a"]).states == {"a": "failed", "b": "skipped"}
    assert toy.store.get("toy/a").manifest["files"] == before
    first, second = plan(toy.recipe(), toy.store, until="b").steps
    assert first.why == "is to be made afresh since an earlier run"
    assert second.why == "its input 'a' is made afresh"
    assert toy.run(until="b").states == {"a": "finished", "b": "finished"}
    assert toy.trace == ALL[:7] * 2
    assert toy.run(until="b").states == {"a": "cached", "b": "cached"}


def test_caches_do_not_take_what_was_made_afresh_for_what_was_there_before(toy: Toy) -> None:
    (toy.folder / "base").mkdir()
    (toy.folder / "base" / "config.json").write_text("{}")
    (toy.folder / "recipe.yaml").write_text(
        "plugins: [kernel_stages.py]\nmodels: {origin: {path: base}}\n"
        "stages: {a: {stage: grow, policy: $origin}, b: {stage: grow, policy: $a}}\n"
    )
    known = [made["b"].metrics["known_as"] for made in (toy.run().artifacts, toy.run(fresh=["a"]).artifacts)]
    assert known[0] != known[1]


def test_a_check_checks_what_is_to_be_made_afresh(toy: Toy) -> None:
    toy.run()
    assert set(check(toy.recipe(), toy.store, Machine(), fresh=["a"]).figures) == {"a", "b"}
    assert plan(toy.recipe(), toy.store).to_run == []


def test_after_a_failure_comes_a_new_worker_and_a_signal_meanwhile_reaches_it(toy: Toy, monkeypatch) -> None:
    started = []

    class Signalled(align.runner.Workers):
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options)
            started.append(self)
            if len(started) == 2:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(align.runner, "Workers", Signalled)
    monkeypatch.setenv("FAULT", "raise:a")
    outcome = toy.run()
    assert len(started) == 2 and not started[0].alive
    assert outcome.states == {"a": "failed", "b": "skipped", "c": "interrupted"}
    assert outcome.exit_code == 130


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


def test_a_worker_that_dies_fails_its_stage_only(toy: Toy, monkeypatch) -> None:
    monkeypatch.setenv("FAULT", "kill:a")
    outcome = toy.run()
    assert outcome.states == {"a": "failed", "b": "skipped", "c": "finished"}
    assert "killed by SIGKILL; did it run out of memory?" in outcome.errors["a"]
    assert toy.told("stage_failed")[0]["log"] == str(toy.store.work(_key(toy, "a")) / "log.txt")
    assert toy.run().states == {"c": "cached", "a": "finished", "b": "finished"}
    assert sorted(toy.trace) == sorted(ALL)


@pytest.mark.parametrize(("fault", "state"), [("kill-in-commit", "finished"), ("kill-in-rename", "cached")])
def test_a_kill_after_the_last_step_costs_no_step(toy: Toy, monkeypatch, fault: str, state: str) -> None:
    monkeypatch.setenv("FAULT", f"{fault}:a")
    assert toy.run(until="a").states == {"a": "failed"}
    outcome = toy.run(until="a")
    assert outcome.states == {"a": state}
    assert outcome.artifacts["a"].damage() == []
    assert toy.trace == ["a 0", "a 1", "a 2"]


def test_a_killed_run_takes_its_worker_along_and_the_next_goes_on(toy: Toy, monkeypatch) -> None:
    monkeypatch.setenv("FAULT", "hang:b")
    with toy.process() as process:
        worker = toy.paused()
        process.kill()
        toy.until(lambda: not _runs(worker))
    assert toy.run().states == {"a": "cached", "b": "finished", "c": "finished"}
    assert toy.trace == ALL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_the_next_run_goes_on(toy: Toy, monkeypatch, number: int) -> None:
    monkeypatch.setenv("FAULT", "pause:b")
    with toy.process() as process:
        toy.paused()
        process.send_signal(number)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert '"interrupted"' in said and "the same command goes on" in said
    assert toy.run().exit_code == 0
    assert toy.trace == ALL


def test_a_second_signal_stops_a_stage_that_does_not_listen(toy: Toy, monkeypatch) -> None:
    monkeypatch.setenv("FAULT", "hang:a")
    with toy.process() as process:
        worker = toy.paused()
        process.send_signal(signal.SIGINT)
        assert process.stdout
        while "once more stops at once" not in process.stdout.readline():
            assert process.poll() is None
        assert _runs(worker)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert '"interrupted"' in said and '"stage_failed"' not in said
    assert not _runs(worker)
    assert toy.run().exit_code == 0
    assert toy.trace == ALL


def test_of_two_runs_at_once_the_second_waits_and_reuses(toy: Toy, monkeypatch) -> None:
    monkeypatch.setenv("FAULT", "pause:a")
    with toy.process() as first:
        worker = toy.paused()
        with toy.process() as second:
            assert second.stdout
            while f"waiting for process {worker}" not in second.stdout.readline():
                assert second.poll() is None
            (toy.folder / "go").touch()
            said, _ = second.communicate(timeout=30)
            first.communicate(timeout=30)
    assert (first.returncode, second.returncode) == (0, 0)
    assert '"stage_cached", "stage": "a"' in said
    assert sorted(toy.trace) == sorted(ALL)


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


def _key(toy: Toy, stage: str) -> str:
    return next(step.key for step in plan(toy.recipe(), toy.store).steps if step.stage == stage)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
