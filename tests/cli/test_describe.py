"""`align stages` and `align schema`: written once, in the docstrings of the fields."""

from __future__ import annotations

import json

import pytest

from align import registry
from align.cli.describe import summary
from align.cli.schema import entries


def test_every_stage_is_listed_with_its_first_sentence(align):
    out = " ".join(align("stages").out.split())
    for name, made in registry.stages().items():
        assert name in out
        assert summary(made)
        assert summary(made)[:40] in out


@pytest.mark.parametrize("name", registry.STAGES.builtin)
def test_every_field_of_every_stage_is_documented(name):
    for entry in entries(registry.stage(name)):
        assert entry.doc, f"{name}.{entry.path} has no docstring"


def test_a_stage_is_explained_by_inputs_and_fields(align):
    out = align("stages", "dpo").out
    inputs, fields = out[out.index("inputs") :].split("fields")
    assert "policy" in inputs and "data" in inputs
    assert "required" in inputs
    assert "beta" in fields and "default 0.1" in fields
    assert "optim.lr" in fields


def test_the_usual_learning_rate_of_a_stage_is_shown(align):
    assert "default 1e-06, or 1e-05 with LoRA" in align("stages", "dpo").out
    assert "default 2e-05, or 0.0002 with LoRA" in align("stages", "sft").out


def test_formats_and_rewards_are_listed(align):
    listed = align("stages", "formats").out
    assert all(name in listed for name in ("messages", "alpaca", "sharegpt", "hh"))
    listed = align("stages", "rewards").out
    assert all(name in listed for name in ("length", "refusal", "lexicon"))


def test_an_unknown_stage_gets_a_suggestion(align):
    wrong = align("stages", "dop")
    assert wrong.code == 2
    assert "no stage is called 'dop'. Did you mean 'dpo'?" in wrong.err


def test_the_schema_knows_every_stage_and_its_fields(align):
    schema = json.loads(align("schema").out)
    stage = schema["$defs"]["Step"]
    assert stage["properties"]["stage"]["enum"] == list(registry.stages())
    dpo = next(c["then"]["$ref"] for c in stage["allOf"] if c["if"]["properties"]["stage"]["const"] == "dpo")
    fields = schema["$defs"][dpo.removeprefix("#/$defs/")]
    assert fields["properties"]["stage"] == {"const": "dpo"}
    assert fields["properties"]["beta"]["default"] == 0.1
    assert fields["additionalProperties"] is False
    assert "policy" in fields["required"]


def test_an_entry_of_the_schema_is_a_step_or_a_loop_of_steps(align):
    schema = json.loads(align("schema").out)
    entry = schema["properties"]["stages"]["additionalProperties"]
    assert entry["if"] == {"required": ["stages"]} and entry["else"] == {"$ref": "#/$defs/Step"}
    loop = schema["$defs"][entry["then"]["$ref"].removeprefix("#/$defs/")]
    assert loop["properties"]["stages"]["additionalProperties"] == {"$ref": "#/$defs/Step"}
    assert set(loop["required"]) == {"rounds", "start", "stages", "next"}


def test_stages_explains_loops(align):
    shown = align("stages", "loop").out
    assert "gate.max_increase" in shown and "not distinguishable" in " ".join(shown.split())


def test_every_reference_within_the_schema_leads_somewhere(align):
    text = align("schema").out
    schema = json.loads(text)
    for part in text.split('"#/$defs/')[1:]:
        assert part.split('"')[0] in schema["$defs"]


def test_every_verb_explains_itself_with_an_example(align):
    help_ = align("--help").out
    verbs = ("run", "plan", "new", "sample", "compare", "history", "export", "gc", "stages", "schema", "doctor")
    for verb in (*((v,) for v in verbs), ("data", "show"), ("data", "check")):
        assert verb[0] in help_
        shown = align(*verb, "--help")
        assert shown.code == 0
        assert f"Example: align {' '.join(verb)}" in shown.out


def test_a_long_name_of_a_field_is_shown_whole(align):
    lines = align("stages", "critique_revise").out.splitlines()
    name = next(n for n, line in enumerate(lines) if line.startswith("   .critique_request "))
    assert lines[name - 1].startswith("  constitution.transcripts  text")


def test_a_summary_does_not_end_at_an_equation(align):
    said = " ".join(align("stages").out.split())
    assert "arXiv:2203.02155, eq. 1)." in said and "eq. 1).." not in said
