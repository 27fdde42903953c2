"""Replies in the page: packed without loss, inert, and of a bounded size."""

from __future__ import annotations

import base64
import gzip
import json

from align.evals.report.material import of_folder
from align.evals.report.principles import Shaping
from align.evals.report.samples import packed
from tests.evals.report.conftest import HOSTILE, compared, samples


def unpacked(data: str) -> dict:
    return json.loads(gzip.decompress(base64.b64decode(data)))


def test_what_is_packed_comes_out_again(material):
    data, kept, rows = packed(material, Shaping(material))
    found = unpacked(data)
    assert (kept, rows) == (40, 40)
    assert found["policies"] == ["base", "tuned", "same"]
    assert found["metrics"] == [{"name": "quality", "better": "higher"}, {"name": "refusal", "better": "lower"}]
    row = found["rows"][3]
    assert row["prompt"] == [["user", f"Question 3? {HOSTILE}"]]
    assert row["extra"] == {"topic": "sea"}
    assert row["replies"][1] == {
        "text": f"tuned says so it is 3. {HOSTILE}", "scores": [0.6, 1.0], "tokens": 8,
        "extra": {"principle": "Be kind, tuned."},
    }  # fmt: skip
    assert found["rows"][4]["replies"][0]["cut"] == 1


def test_nothing_of_a_reply_can_be_read_as_markup(material):
    assert set("<>&\"'{}") & set(packed(material, Shaping(material))[0]) == set()


def test_too_many_leave_the_most_telling(tmp_path):
    """On prompt 7 alone the policies differ by more than by any other, so it is the last to go."""
    one, other = samples("one", 0.1), samples("other", 0.1)
    other[7].scores["quality"] = 9.0
    made = of_folder(compared(tmp_path, {"one": one, "other": other}), "x")
    data, kept, rows = packed(made, Shaping(made), limit=600)
    assert kept < rows == 40 and len(data) <= 600
    assert "p7" in [row["id"] for row in unpacked(data)["rows"]]
