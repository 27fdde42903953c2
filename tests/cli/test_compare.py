"""The verb compare, up to where it runs the stage: names, templates, commits, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from align.cli.compare import PROMPTS, TEXT, _contestant, _keys, _model, _names, _pinned
from align.cli.options import reward_given
from align.config import Data, Endpoint, Model
from align.errors import RecipeError
from align.store import Artifact, Store
from tests.store.conftest import KEY, make

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that does not answer, and a cache that knows one model."""

    def silent(self, *names, **options):
        raise ConnectionError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HfApi, "repo_info", silent)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    ref = tmp_path / "hub" / "models--ours--known" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text(COMMIT)


def test_a_hub_name_is_pinned_and_one_that_cannot_be_has_no_key(hub, tmp_path):
    (tmp_path / "here.jsonl").write_text('{"text": "x"}\n')
    inputs = {"known": Model(path="ours/known"), "new": Model(path="ours/new"), PROMPTS: Data(path="here.jsonl")}
    pinned = _pinned(inputs)
    assert (pinned["known"].revision, pinned["new"].revision) == (COMMIT, "main")
    keys = _keys(pinned, Store(tmp_path / "runs"), 0)
    assert keys.keys() == {"known", PROMPTS}


def test_replies_of_what_was_made_afresh_are_not_those_of_before(tmp_path):
    """`align run --fresh` leaves the key as it is; what is kept of the policy that was there is not of this one."""
    store = Store(tmp_path / "runs")
    before = _keys({"sft": make(store)}, store, 0)
    assert before == {"sft": KEY}
    store.supersede(KEY)
    assert _keys({"sft": make(store)}, store, 0) != before


def test_no_input_takes_the_place_of_another(tmp_path, monkeypatch):
    assert not {PROMPTS, TEXT} & set(_names(["a/prompts", "b/text"]))
    assert _names(["a/sft", "b/sft"]) == ["a-sft", "b-sft"]
    made, inputs = Artifact("reward", "k", Path()), {"judge": Model(path="x")}
    monkeypatch.setattr(Store, "get", lambda self, address: made)
    assert reward_given(Store(tmp_path), "toy/judge", inputs) == "$toy-judge"
    assert inputs == {"judge": Model(path="x"), "toy-judge": made}


def test_a_template_is_for_models_that_are_no_artifacts(hub, tmp_path):
    (tmp_path / "model").mkdir()
    store = Store(tmp_path / "runs")
    assert _contestant(store, "model", "plain") == Model(path="model", template="plain")
    assert _contestant(store, "model", None) == Model(path="model")


def test_servers_and_files_of_ready_answers_take_part(hub, tmp_path):
    (tmp_path / "gpt4.jsonl").write_text('{"prompt": "x", "reply": "y"}\n')
    store, server = Store(tmp_path / "runs"), "http://localhost:8000/v1#Qwen/Qwen3-8B"
    assert _contestant(store, server, "plain") == Endpoint(endpoint="http://localhost:8000/v1", name="Qwen/Qwen3-8B")
    assert _contestant(store, "gpt4.jsonl", None) == Data(path="gpt4.jsonl")
    assert _names([server, "gpt4.jsonl", "toy/sft"]) == ["Qwen3-8B", "gpt4", "sft"]
    pinned = _pinned({"q": _contestant(store, server, None), "gpt4": Data(path="gpt4.jsonl")})
    assert _keys(pinned, store, 0).keys() == {"q", "gpt4"}
    with pytest.raises(RecipeError, match="http://localhost:8000/v1#MODEL"):
        _contestant(store, "http://localhost:8000/v1/", None)


def test_a_judge_joins_the_inputs_and_may_be_a_contestant(hub, tmp_path):
    store = Store(tmp_path / "runs")
    inputs = {"base": Model(path="ours/base"), "Qwen3-8B": Model(path="other/Qwen3-8B")}
    assert _model(store, "ours/base", None, inputs) == "$base" and len(inputs) == 2
    server = "http://localhost:8000/v1#Qwen/Qwen3-8B"
    name = _model(store, server, None, inputs)
    assert name != "$Qwen3-8B" and inputs[name[1:]] == Endpoint(
        endpoint="http://localhost:8000/v1", name="Qwen/Qwen3-8B"
    )
    (tmp_path / "votes.jsonl").write_text("{}\n")
    with pytest.raises(RecipeError, match=r"votes.jsonl: what judges or rewords is a model or a server"):
        _model(store, "votes.jsonl", None, inputs)


def test_records_of_the_store_take_part(tmp_path, monkeypatch):
    made = Artifact("records", "k", Path())
    monkeypatch.setattr(Store, "get", lambda self, address: made)
    assert _contestant(Store(tmp_path), "toy/replies", None) == made


def test_a_misspelt_reward_is_said_in_our_words(align, hub, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "here.jsonl").write_text('{"prompt": "x"}\n')
    wrong = align("compare", "model", "--prompts", "here.jsonl", "--reward", "lenght")
    assert wrong.code == 2
    assert "rewards.0: " in wrong.err and "Did you mean 'length'?" in wrong.err
    assert "pydantic" not in wrong.err and "validation error" not in wrong.err


def test_a_misspelt_transformation_or_file_is_said_in_our_words(align, hub, tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"prompt": "x", "reply": "y"}\n')
    wrong = align("compare", "a.jsonl", "b.jsonl", "--prompts", "a.jsonl", "--transform", "typoes")
    assert wrong.code == 2 and "brittleness.0: no transformation is called 'typoes'. Did you mean 'typos'?" in wrong.err
    assert "block" not in wrong.err
    wrong = align("compare", "a.jsonl", "c.jsonl", "--prompts", "a.jsonl")
    assert "c.jsonl: no such file of ready answers" in wrong.err
