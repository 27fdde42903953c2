"""Clocks: what is counted between start and stop, and where a step's seconds go."""

import pytest
import torch

from align.bench import clock

CPU = torch.device("cpu")


def test_the_rate_is_that_of_the_matrix_products_it_made(monkeypatch):
    wall = iter([0.0, 0.1, 0.2, 0.5])  # two products, in 0.1 and 0.3 s of the wall
    cpu = iter([0.0, 0.1, 0.1, 0.2])  # and 0.1 s each of the processor
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(clock.time, "process_time", lambda: next(cpu))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert clock.matrix_rate(CPU, torch.float32) == pytest.approx(2 * 2 * 768**3 / 0.2)


def test_products_with_the_vocabulary_are_the_projection():
    hidden, layer, head = torch.randn(512, 256), torch.randn(256, 256), torch.randn(256, 5000)
    parts = clock.breakdown(lambda: [(hidden @ layer).softmax(-1) @ head for _ in range(5)], vocabulary=5000)
    assert sum(parts.values()) == pytest.approx(1)
    assert parts["projection"] > parts["matrices"] > 0  # twenty times the operations
    assert parts["attention"] > 0  # the softmax
