"""Models far too small to judge: the stage finds out and refuses, by real text and the published principles."""

import gzip
import json

import pytest

from align.config import Model
from align.errors import CheckError
from align.records import Message, Sample
from align.stages.ai_feedback import AIFeedback


def test_a_model_that_cannot_judge_is_refused(shared, context, rows):
    """stories260K on pairs of hh-rlhf, by NeMo-Aligner's principles: nothing it says holds in both orders."""
    with gzip.open(shared / "data/hh-rlhf/test.jsonl.gz", "rt") as lines:
        pairs = [json.loads(line) for line, _ in zip(lines, range(200), strict=False)]
    samples = []
    for number, pair in enumerate(pairs):
        chosen, rejected = (pair[name].split("\n\nAssistant:") for name in ("chosen", "rejected"))
        if len(chosen) == 2 and len(pair["chosen"]) + len(pair["rejected"]) < 360:
            prompt = (Message("user", chosen[0].removeprefix("\n\nHuman:").strip()),)
            for index, reply in enumerate((chosen[1], rejected[1])):
                samples.append(Sample(str(number), prompt, reply.strip(), "people", index=index).row())
    assert len(samples) >= 16
    constitution = str(shared / "data/nemo-aligner-cai/CritiqueRevisionInstructions.json")
    judge = Model(path=str(shared / "models/stories260K"), template="plain")
    ctx = context({"judge": judge, "samples": rows("samples", *samples)})
    fields = {"judge": "$judge", "prompts": "$samples", "constitution": constitution, "principles": 1}
    stage = AIFeedback.model_validate(fields | {"max_too_long": 0.5})
    with pytest.raises(CheckError, match=r"contradicts itself: consistency over .* Its labels would be noise"):
        stage.run(ctx)
    told = AIFeedback.model_validate(fields | {"max_too_long": 0.5, "unreliable": "keep"}).run(ctx)
    assert told["consistency_low"] <= 0
    assert told["label"] < 0.6, "what is left when the two orders are averaged is next to nothing"
    assert told["label_entropy"] > 0.65
