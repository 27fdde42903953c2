"""`align doctor`: findings on this machine, and on machines that lack something."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from packaging.requirements import Requirement

from align.cli import doctor


def test_it_tells_versions_devices_and_disk(align):
    out = align("doctor").out
    assert torch.__version__.split("+")[0] in out or "not installed" in out
    assert "FLOP/s in float32" in out
    assert "free for runs" in out


@pytest.mark.parametrize(
    ("line", "state"), [("pydantic>=2", "fine"), ("pydantic>=99", "wrong"), ("no-such-package>=1", "wrong")]
)
def test_a_package_is_there_too_old_or_missing(line, state):
    assert doctor._required(Requirement(line)).state == state


def test_what_an_optional_package_is_for_is_told_with_how_to_get_it(monkeypatch):
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", missing)
    found = {finding.what: finding for finding in doctor._optional()}
    assert found["bitsandbytes"].state == "absent"
    assert "4bit" in found["bitsandbytes"].value
    assert "pip install bitsandbytes" in found["bitsandbytes"].value
    assert "pip install 'align[vllm]'" in found["vllm"].value


def test_a_full_disk_is_wrong(align, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    assert align("doctor").code == 1
