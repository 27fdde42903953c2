"""Exports are what a stranger can load, and compute what the artifact computes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from align.config import Lora, Model
from align.errors import ContractError
from align.models.contract import logps
from align.models.export import export
from align.models.heads import load_reward
from align.models.policy import load_policy
from align.records import Message
from tests.models.conftest import numbers, rows, trained

SHARED = Path(__file__).parents[3] / "shared" / "models"


def near(expected):
    return pytest.approx(expected, abs=1e-4)


@pytest.fixture
def dpo(store, keep, sft):
    return keep(trained(load_policy(sft, store=store, train=True, lora=Lora(r=2))), "dpo", policy=sft)


@pytest.fixture
def reward(store, keep, sft):
    return keep(trained(load_reward(sft, store=store, train=True, lora=Lora(r=2))), "reward", "reward", policy=sft)


def run_card(folder: Path):
    """The model that the card's own code makes."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code.group(1).replace("FOLDER", str(folder)), names)
    return names["model"].eval(), names["tokenizer"]


def all_logps(model) -> list[float]:
    return [value for row in rows() for value in logps(model, row)]


@pytest.mark.parametrize("merged", [True, False])
def test_a_policy_by_the_code_on_its_card(merged, store, dpo, tmp_path):
    export(dpo, tmp_path / "out", merged, store)
    model, tokenizer = run_card(tmp_path / "out")
    assert all_logps(model) == near(numbers(load_policy(dpo, store=store)))
    assert model.generation_config.eos_token_id == [1]
    assert tokenizer.pad_token_id == 2


@pytest.mark.parametrize("merged", [True, False])
def test_a_reward_model_by_the_code_on_its_card(merged, store, reward, tmp_path):
    export(reward, tmp_path / "out", merged, store)
    model, _ = run_card(tmp_path / "out")
    scores = [model(input_ids=torch.tensor([row])).logits[0, 0].item() for row in rows()]
    assert scores == near(numbers(load_reward(reward, store=store)))


def test_full_weights_in_bfloat16(store, outside, keep, tmp_path):
    made = keep(trained(load_policy(outside(dtype="bfloat16"), train=True)), "sft")
    export(made, tmp_path / "out", True, store)
    model, _ = run_card(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    assert all_logps(model) == near(numbers(load_policy(made)))


def test_an_adapter_on_full_weights_of_ours_brings_its_base(store, outside, keep, tmp_path):
    full = keep(trained(load_policy(outside(), train=True)), "full")
    made = keep(trained(load_policy(full, train=True, lora=Lora(r=2))), "dpo", policy=full)
    export(made, tmp_path / "out", False, store)
    expected = numbers(load_policy(made, store=store))
    for artifact in (full, made):
        for file in (artifact.path / "manifest.json", artifact.path / "contract.json"):
            file.unlink()  # the export must not need the store
    model, _ = run_card(tmp_path / "out")
    assert all_logps(model) == near(expected)


def test_the_card_says_where_it_comes_from(store, dpo, outside, tmp_path):
    export(dpo, tmp_path / "out", False, store)
    text = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front == {"library_name": "peft", "pipeline_tag": "text-generation", "tags": ["align", "sft"],
                     "base_model": outside().path}  # fmt: skip
    assert "# tests/dpo" in text and "| loss | 0.5 |" in text and "epochs: 1" in text
    assert "dpo (sft) dpo\n  policy: sft (sft) sft" in text


@pytest.mark.parametrize("template", ["plain", "raw"])
def test_aligns_own_templates_travel_as_jinja(template, store, outside, keep, tmp_path):
    source = outside().model_copy(update={"template": template})
    made = keep(load_policy(source, train=True), "sft")
    export(made, tmp_path / "out", True, store)
    policy = load_policy(made)
    turns = (Message("user", "Hello"), Message("assistant", "Hi!"), Message("user", "And?"))
    again = load_policy(Model(path=str(tmp_path / "out")))
    theirs = again.tokenizer.apply_chat_template([m.row() for m in turns], add_generation_prompt=True, tokenize=False)
    assert again.tokenizer(theirs, add_special_tokens=False)["input_ids"] == policy.chat.prompt(turns)
    assert again.chat.prompt(turns) == policy.chat.prompt(turns)
    assert again.chat.reply(turns[:1], turns[1:2]) == policy.chat.reply(turns[:1], turns[1:2])


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/models")
def test_a_real_model_keeps_its_ends(store, keep, tmp_path):
    made = keep(load_policy(Model(path=str(SHARED / "stories260K"), template="raw"), train=True), "sft")
    export(made, tmp_path / "out", True, store)
    again = load_policy(Model(path=str(tmp_path / "out")))
    assert again.contract.stop == (1, 2) and again.contract.pad == 0
    prompt = (Message("user", "Once upon a time"),)
    assert again.chat.prompt(prompt) == load_policy(made).chat.prompt(prompt)


def test_a_damaged_export_is_noticed(store, dpo, tmp_path, monkeypatch):
    """Loaded again, it must compute the same: here the file gets other weights than the model has."""
    from align.models import export as module

    write = module.save_model

    def damaging(model, folder, dtype):
        kept = model.get_output_embeddings().weight.data
        model.get_output_embeddings().weight.data = kept * 1.1
        write(model, folder, dtype)
        model.get_output_embeddings().weight.data = kept

    monkeypatch.setattr(module, "save_model", damaging)
    with pytest.raises(ContractError, match="it computes other numbers"):
        export(dpo, tmp_path / "out", True, store)


def test_a_folder_with_files_is_refused(store, dpo, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ContractError, match="not empty"):
        export(dpo, tmp_path, True, store)


def test_what_lies_on_merged_weights_is_exported_merged(store, keep, sft, tmp_path):
    loaded = load_policy(sft, store=store, train=True, lora=Lora(r=2), adapter="merge-first")
    made = keep(trained(loaded), "dpo", policy=sft)
    with pytest.raises(ContractError, match="export it merged"):
        export(made, tmp_path / "apart", False, store)
    export(made, tmp_path / "merged", True, store)
    assert all_logps(run_card(tmp_path / "merged")[0]) == near(numbers(load_policy(made, store=store)))
