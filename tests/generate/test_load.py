"""Who writes, as the machine settings say."""

from __future__ import annotations

import importlib.machinery

import pytest

from align.errors import CheckError, DependencyError
from align.generate import load
from align.generate.continuous import ContinuousGenerator
from align.generate.hf import HFGenerator
from align.generate.vllm import VLLMGenerator
from align.machine import Machine
from tests.generate.test_hf import policy


@pytest.fixture(params=[True, False], ids=["vllm", "no vllm"])
def installed(request, monkeypatch):
    spec = importlib.machinery.ModuleSpec("vllm", None) if request.param else None
    monkeypatch.setattr(load, "find_spec", lambda name: spec)
    return request.param


def test_auto_is_vllm_where_it_is_and_can_run(installed):
    assert load.chosen(Machine(), cuda=True) == ("vllm" if installed else "hf")
    assert load.chosen(Machine(), cuda=False) == load.chosen(Machine(), cuda=True, quantized=True) == "hf"


def test_vllm_is_refused_where_it_cannot_run(installed):
    with pytest.raises(DependencyError, match="needs a CUDA device and pip install"):
        load.chosen(Machine(generator="vllm"), cuda=False)
    if installed:
        assert load.chosen(Machine(generator="vllm"), cuda=True) == "vllm"
    asked = policy()
    asked.contract.quantize = "4bit"
    with pytest.raises(CheckError, match="can't be given 4-bit weights"):
        VLLMGenerator(asked, memory=0.3)


@pytest.mark.parametrize(("name", "kind"), [("auto", HFGenerator), ("continuous", ContinuousGenerator)])
def test_a_policy_is_written_for_by_the_one_that_was_chosen(name, kind):
    asked = policy()
    asked.contract.quantize = None
    made = load.generator_of(asked, Machine(device="cpu", generator=name, sample_batch=7))
    assert type(made) is kind and made.batch == 7
