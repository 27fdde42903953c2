"""Two ranks make the step that one makes, although nine rows do not divide by two."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train import online_ranks, ranks

ROOT = Path(__file__).parents[2]
RANKS = """
import multiprocessing, os, sys
from tests.train import online_ranks, ranks

def work(rank):
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
    ranks.main(sys.argv[1])
    online_ranks.main(sys.argv[2])

fork = multiprocessing.get_context("fork")
started = [fork.Process(target=work, args=rank) for rank in "01"]
[process.start() for process in started]
[process.join() for process in started]
sys.exit(max(abs(process.exitcode) for process in started))
"""
"""What both import is imported once, which is most of the time that they take, and nothing has run before they part."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """What one process and two ranks come to, by what they run."""
    folder = tmp_path_factory.mktemp("ranks")
    files = {n: [str(folder / f"{name}-{n}.pt") for name in ("fit", "online")] for n in (1, 2)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    shared |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = subprocess.Popen([sys.executable, "-c", RANKS, *files[2]], env=shared)
    ranks.main(files[1][0])
    online_ranks.main(files[1][1])
    assert started.wait(timeout=240) == 0
    return {
        name: [torch.load(files[n][i], weights_only=True) for n in (1, 2)] for i, name in enumerate(("fit", "online"))
    }


def test_two_ranks_make_the_step_of_one(made):
    one, two = made["fit"]
    assert (one["ranks"], two["ranks"]) == (1, 2)
    for name in ("sft", "dpo"):
        assert two[name]["metrics"] == pytest.approx(one[name]["metrics"], abs=1e-5)
        for tensor, weights in one[name]["weights"].items():
            torch.testing.assert_close(two[name]["weights"][tensor], weights, atol=2e-5, rtol=1e-4)


def test_two_ranks_share_what_the_reference_says(made):
    """Of nine pairs rank 0 measures five; eight are measured again by both, each time."""
    one, two = (found["reference"] for found in made["fit"])
    for told in (*one["told"], *two["told"]):
        assert torch.tensor(told).flatten().tolist() == pytest.approx(
            torch.tensor(one["told"][0]).flatten().tolist(), abs=1e-4
        )
    assert len(one["seen"]) == len(two["seen"]) == 3
    assert two["seen"][0] < one["seen"][0] and two["seen"][1:] == one["seen"][1:]


def test_two_ranks_play_and_learn_as_one(made):
    """Three prompts between two ranks: the same replies, before and after an update, and the same step.
    Trap 31: also with a critic's adapter beside the policy's."""
    for critic in ("head", "adapters"):
        one, two = (found[critic] for found in made["online"])
        assert (one["ranks"], two["ranks"]) == (1, 2)
        assert two["replies"] == one["replies"]
        assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-5)
        for tensor, weights in one["weights"].items():
            torch.testing.assert_close(two["weights"][tensor], weights, atol=2e-5, rtol=1e-4)
    assert any(".critic." in name for name in one["weights"])
