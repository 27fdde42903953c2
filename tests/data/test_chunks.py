"""Work that goes on where a killed run left it."""

import json
from dataclasses import replace

import pytest

from align.data.chunks import in_chunks, tell
from align.errors import Interrupted
from align.machine import Machine
from align.stage import Context
from align.store import Store


@pytest.fixture
def ctx(tmp_path):
    out = tmp_path / "work" / "out"
    return Context("it", "it", "key", 0, {}, {}, Store(tmp_path), Machine(), tmp_path / "work", out)


def test_finished_chunks_are_read_and_the_rest_is_made(ctx):
    made, events = [], []
    ctx = replace(ctx, emit=lambda event, **values: events.append(event))

    def make(chunk):
        if 6 in chunk:
            raise RuntimeError("killed")
        made.extend(chunk)
        return [{"item": item} for item in chunk]

    with pytest.raises(RuntimeError):
        in_chunks(ctx, "counting", range(8), 3, make)
    assert made == [0, 1, 2, 3, 4, 5]
    assert events == ["progress", "saved", "progress", "saved", "progress"]
    file = ctx.work / "counting.jsonl"
    file.write_bytes(file.read_bytes() + b'{"item": 6')  # killed while it wrote
    again = []

    def count(chunk):
        again.extend(chunk)
        return [{"item": item} for item in chunk]

    rows = in_chunks(ctx, "counting", range(8), 5, count)
    assert again == [6, 7] and rows == [{"item": item} for item in range(8)]
    assert [json.loads(line) for line in file.read_text().splitlines()] == rows


def test_a_signal_stops_between_chunks(ctx):
    object.__setattr__(ctx, "stopping", lambda: True)
    with pytest.raises(Interrupted, match="stopped while counting: 0 of 8"):
        in_chunks(ctx, "counting", range(8), 3, list)
    with pytest.raises(Interrupted, match="stopped while counting: 2 of 3"):
        tell(ctx, "counting")(2, 3)
