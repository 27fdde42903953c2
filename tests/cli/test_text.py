"""The examples in the docstrings, and the edges between units."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from align.cli import schema, text


@pytest.mark.parametrize("module", [text, schema])
def test_examples(module):
    failed, tried = doctest.testmod(module)
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (3599.7, "1h 00m"), (90061, "25h 01m")]
)
def test_durations_round_up_into_the_next_unit(seconds, said):
    assert text.duration(seconds) == said


def test_metrics_show_the_first_few():
    assert text.metrics({"loss": 0.5, "a_b": 2.0, "c": 1.0}, limit=2) == "loss 0.5  a b 2"


def test_a_number_that_is_not_one_is_said():
    assert text.number(float("nan")) == "nan"
    assert text.number(float("inf")) == "inf"


def test_places_are_relative_where_they_can_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert text.place(tmp_path / "runs" / "log.txt") == str(Path("runs/log.txt"))
    assert text.place("/elsewhere/log.txt") == "/elsewhere/log.txt"


def test_a_reward_of_one_part_is_said_once():
    assert text.metrics({"reward": 1.5, "reward_kind": 1.5, "kl": 2}) == "reward 1.5  kl 2"
    assert text.metrics({"reward": 1.5, "reward_kind": 1, "kl": 2}) == "reward 1.5  reward kind 1  kl 2"
