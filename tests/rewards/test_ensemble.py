"""Ensembles: numbers by hand."""

from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace

import pytest

from align.errors import CheckError
from align.records import Message, Prompt
from align.rewards.base import RewardSpec, Rule, load
from align.rewards.ensemble import Ensemble

PROMPT = Prompt("1", (Message("user", "hi"),))


def rule(better="higher", **scores):
    return Rule("it", lambda prompt, reply: scores[reply], better)


def test_disagreement_costs_and_a_member_for_which_less_is_better_is_turned():
    members = [rule(a=1.0, b=3.0, c=nan), rule("lower", a=-1.0, b=1.0, c=0.0)]  # counted: a 1, 1; b 3, -1
    for pessimism, b in ((0.0, 1.0), (0.5, 0.0), (2.0, -3.0)):
        a, found, c = Ensemble(members, pessimism, "both")([PROMPT] * 3, ["a", "b", "c"])
        assert (a, found) == (1.0, b) and isnan(c)
    with pytest.raises(CheckError, match="calls no score better"):
        Ensemble([rule(None, a=1.0)] * 2, 1.0, "both")([PROMPT], ["a"])


def test_an_ensemble_is_a_reward_of_a_recipe():
    short = {"rule": "length", "better": "lower", "scale": 0.1, "name": "short"}
    spec = RewardSpec.model_validate({"ensemble": {"members": ["repetition", short], "pessimism": 0}, "scale": 2})
    # "a a a a": repetition 1/2, length 0.4, each turned, mean -0.45, times 2
    assert load(spec, SimpleNamespace(base=Path()))([PROMPT], ["a a a a"]) == [pytest.approx(-0.9)]
    assert spec.name == "ensemble"
    with pytest.raises(ValueError, match="members"):
        RewardSpec.model_validate({"ensemble": {"members": ["repetition"]}})
