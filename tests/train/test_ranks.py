"""Two ranks make the step that one makes, although nine rows do not divide by two."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def run(ranks: int, out: Path, script: str = "ranks.py") -> dict:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = f"{HERE}:{HERE.parents[1]}"
    shared = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    if ranks > 1:
        shared |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, HERE / script, out],
            env=shared | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}),
        )
        for rank in range(ranks)
    ]
    assert [process.wait(timeout=240) for process in started] == [0] * ranks
    return torch.load(out, weights_only=True)


def test_two_ranks_make_the_step_of_one(tmp_path):
    one, two = run(1, tmp_path / "one.pt"), run(2, tmp_path / "two.pt")
    assert (one["ranks"], two["ranks"]) == (1, 2)
    for name in ("sft", "dpo"):
        assert two[name]["metrics"] == pytest.approx(one[name]["metrics"], abs=1e-5)
        for tensor, weights in one[name]["weights"].items():
            torch.testing.assert_close(two[name]["weights"][tensor], weights, atol=2e-5, rtol=1e-4)


def test_two_ranks_play_and_learn_as_one(tmp_path):
    """Three prompts between two ranks: the same replies, before and after an update, and the same step.
    Trap 31: also with a critic's adapter beside the policy's."""
    runs = [run(ranks, tmp_path / f"{ranks}.pt", "online_ranks.py") for ranks in (1, 2)]
    for critic in ("head", "adapters"):
        one, two = (found[critic] for found in runs)
        assert (one["ranks"], two["ranks"]) == (1, 2)
        assert two["replies"] == one["replies"]
        assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-5)
        for tensor, weights in one["weights"].items():
            torch.testing.assert_close(two["weights"][tensor], weights, atol=2e-5, rtol=1e-4)
    assert any(".critic." in name for name in one["weights"])
