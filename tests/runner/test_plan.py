"""What a run would do and why: changes, `until`, `only`, `fresh`."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from align.errors import RecipeError
from align.machine import Machine
from align.plan import code_of
from align.rewards.base import RewardField
from align.runner import check, plan
from tests.kernel_stages import Count
from tests.runner.conftest import ALL, Toy, key_of


def test_a_change_runs_its_dependents_and_nothing_else(toy: Toy) -> None:
    toy.run()
    made = plan(toy.recipe("a.steps=2"), toy.store)
    assert [(s.stage, s.state, s.changed) for s in made.steps] == [
        ("a", "run", ("steps: default -> 2",)), ("b", "run", ("input a",)), ("c", "cached", ()),
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


def test_a_stage_whose_artifact_lost_a_file_is_made_again(toy: Toy) -> None:
    first = toy.run().artifacts["a"]
    (first.path / "records.jsonl").unlink()
    step = plan(toy.recipe(), toy.store).steps[0]
    assert (step.state, step.why) == ("run", "was made, but records.jsonl is missing or damaged")
    assert toy.run().states == {"a": "finished", "b": "cached", "c": "cached"}


def test_plan_says_why(toy: Toy, monkeypatch) -> None:
    assert [s.why for s in plan(toy.recipe(), toy.store).steps] == ["never run"] * 3
    monkeypatch.setenv("FAULT", "raise:a")
    toy.run()
    toy.store.work(key_of(toy, "b")).mkdir()  # as a check leaves it, with a log or without
    first, second, third = plan(toy.recipe(), toy.store).steps
    assert first.why == "was begun and not finished; goes on"
    assert second.why == "not finished in the last run"
    assert third.why.startswith("made 20")
    assert plan(toy.recipe(), toy.store, fresh=["c"]).steps[2].why == "asked for afresh"


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
