"""The examples are what people copy: each is short, and each runs as it stands."""

from __future__ import annotations

import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from align.errors import CheckError
from align.evals.registry import MetricSpec
from align.plugins import forget_plugins, load_plugin
from align.records import Message, Prompt, Sample
from align.registry import STAGES
from align.rewards.base import REWARDS

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


@pytest.fixture
def plugin():
    """Loads an example as the plugin that it is."""
    yield lambda name: load_plugin(EXAMPLES / name)
    forget_plugins()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """What `run_a_recipe.py` makes: the folder of its results, and what it printed."""
    folder = tmp_path_factory.mktemp("runs")
    env = os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, EXAMPLES / "run_a_recipe.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_an_example_fits_on_a_screen(script):
    assert len(script.read_text().splitlines()) <= 60


def test_a_recipe_with_everything_of_ones_own_runs_from_python(store):
    _, said = store
    assert "dpop: run, never run" in said
    assert all(f"{stage}: " in said for stage in ("base", "drafts", "best", "sft", "dpop", "result"))
    assert "| on_topic ↑" in said


def test_an_artifact_is_read(store, capsys):
    folder, _ = store
    runpy.run_path(str(EXAMPLES / "read_an_artifact.py"))["main"](folder)
    said = capsys.readouterr().out
    assert "policies.2: dpop" in said and "        policy: base" in said
    assert "dpop asks back: Interval(value=" in said
    assert "asks back: dpop" in said.splitlines()[-1]


def test_a_model_learns_by_hand():
    losses = runpy.run_path(str(EXAMPLES / "use_the_learner.py"))["main"]()
    assert losses[0] > 4 and losses[-1] < 1


def test_the_loss_has_the_values_of_its_paper(plugin):
    """Pair 1: the chosen reply rose, so it is DPO, -log sigmoid(0.5 * 3). Pair 2: it sank by 1, which costs 2 more:
    -log sigmoid(0.5 * (1 - 2))."""
    loss = plugin("add_a_loss.py").dpo_positive
    losses = loss(torch.tensor([1.0, -1.0]), torch.tensor([-2.0, -2.0]), beta=0.5, penalty=2.0)
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(0.5))])


def test_the_stage_and_the_loss_are_known_by_name_while_their_recipe_is(plugin):
    plugin("add_a_stage.py"), plugin("add_a_loss.py")
    assert STAGES["best_of"].makes == "records" and STAGES["dpo_positive"].makes == "policy"
    forget_plugins()
    assert "best_of" not in STAGES and "dpo_positive" not in STAGES


def test_the_reward_counts_what_is_said_again(plugin):
    plugin("add_a_reward.py")
    prompt = Prompt("a", (Message("user", "What colour is the sky?"),))
    rule = REWARDS["on_topic"]
    assert rule([prompt] * 3, ["The colour is blue.", "What colour!", "Blue."]) == [0.5, 1.0, 0.0]
    assert rule.checked({"least": "3"}) == {"least": 3}
    with pytest.raises((CheckError, ValueError), match="least"):
        rule.checked({"leest": 3})


def test_the_metric_reads_replies_and_is_forgotten_with_its_recipe(plugin):
    plugin("add_a_metric.py")
    asked = [(Message("user", text),) for text in "ab"]
    replies = [(asked[0], "Why?"), (asked[0], "Because."), (asked[1], "So? ")]
    samples = [Sample("id", prompt, reply, "me", index) for index, (prompt, reply) in enumerate(replies)]
    assert MetricSpec.model_validate("asks_back")(samples).by_prompt.tolist() == [0.5, 1.0]
    other = MetricSpec.model_validate({"metric": "asks_back", "name": "ends", "options": {"mark": "."}})
    assert (other(samples).value, other.better, other.name) == (0.25, "lower", "ends")
    with pytest.raises(ValueError, match=r"options: marc: .*\(options of 'asks_back': mark\)"):
        MetricSpec.model_validate({"metric": "asks_back", "options": {"marc": "."}})
    forget_plugins()
    with pytest.raises(ValueError, match="no metric is called 'asks_back'"):
        MetricSpec.model_validate("asks_back")
