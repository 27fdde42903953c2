"""A model far too small to criticise: it is heard to the end, and nothing of what it says is imitated."""

import csv
import json

import pytest

from align.config import Model
from align.constitution import find
from align.errors import CheckError
from align.stages.critique_revise import CritiqueRevise


def test_what_a_story_teller_revises_is_not_imitated(shared, context, rows):
    """stories260K on prompts of XSTest and AdvBench, by the 16 published principles."""
    asked = []
    for file, column in (("xstest/xstest_prompts.csv", "prompt"), ("advbench/harmful_behaviors.csv", "goal")):
        with (shared / "data" / file).open(newline="") as lines:
            asked += [{"prompt": row[column]} for row, _ in zip(csv.DictReader(lines), range(8), strict=False)]
    constitution = str(shared / "data/nemo-aligner-cai/CritiqueRevisionInstructions.json")
    policy = Model(path=str(shared / "models/stories260K"), template="plain")
    ctx = context({"base": policy, "prompts": rows("asked", *asked)})
    stage = CritiqueRevise.model_validate(
        {
            "policy": "$base", "prompts": "$prompts", "constitution": constitution,
            "sampling": {"max_new_tokens": 24}, "max_too_long": 0.5,
        }
    )  # fmt: skip
    with pytest.raises(CheckError, match=r"no revision is left of 16: 16 truncated"):
        stage.run(ctx)
    made = [json.loads(line) for line in (ctx.work / "criticising-and-revising.jsonl").read_text().splitlines()]
    principles = {principle.name for principle in find(constitution).principles}
    assert len(principles) == 16
    assert len(made) == 16 and {row["revisions"][0]["principle"] for row in made} < principles
    assert all(row["initial"]["reply"] and row["revisions"][0]["critique"] for row in made)
