"""What tests of the stage `compare` share: two policies, and how they are compared."""

import json

import pytest

from align.stages.compare import Compare

FIELDS = {"policies": ["$base", "$tuned"], "prompts": "$prompts", "sampling": {"max_new_tokens": 12, "n": 2}}


@pytest.fixture
def texts(rows):
    return rows("texts", *({"text": f"the cat sat on the {word} and then so"} for word in ("mat", "log", "dog")))


def run(ctx, **fields):
    stage = Compare.model_validate(FIELDS | fields)
    stage.check(ctx)
    metrics = stage.run(ctx)
    return json.loads((ctx.out / "comparison.json").read_text()), metrics
