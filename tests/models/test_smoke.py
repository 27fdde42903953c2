"""Stand-ins: tiny models of the right architecture, rows of the right format."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig

from align.config import Data, Model, Sampling
from align.data import load
from align.data.convert import prompt_of
from align.data.formats import FORMATS
from align.generate.hf import HFGenerator
from align.models.heads import load_reward
from align.models.policy import load_policy
from align.models.smoke import ROWS, lightened, stand_in
from align.records import Message
from align.stages.sft import SFT

NAMES = {
    "HuggingFaceTB/SmolLM2-135M": "llama",
    "meta-llama/Llama-3.1-8B-Instruct": "llama",
    "Qwen/Qwen2.5-0.5B": "qwen2",
    "Qwen/Qwen3-0.6B": "qwen3",
    "Qwen/Qwen3-30B-A3B": "qwen3_moe",
    "google/gemma-2b": "gemma",
    "google/gemma-2-2b": "gemma2",
    "google/gemma-3-1b-pt": "gemma3_text",
    "mistralai/Mixtral-8x7B-v0.1": "mixtral",
    "openai-community/gpt2": "gpt2",
    "EleutherAI/pythia-70m": "gpt_neox",
}


@pytest.mark.parametrize("name, architecture", NAMES.items())
def test_hub_names_get_their_architecture(name, architecture, store):
    entry = stand_in(Model(path=name, dtype="bfloat16"), "key", Path(), store)
    policy = load_policy(entry)
    assert policy.model.config.model_type == architecture
    assert policy.contract.dtype == "bfloat16"
    assert sum(p.numel() for p in policy.model.parameters()) < 100_000


@pytest.mark.parametrize(
    ("architecture", "standing_in"),
    [
        ("mamba", "mamba"),
        ("falcon", "falcon"),
        ("qwen3_next", "qwen3_next"),
        ("nemotron", "llama"),
        ("deepseek_v3", "llama"),
    ],
)
def test_any_architecture_has_a_stand_in(architecture, standing_in, tmp_path, store):
    """Its own kind where that can be made small: some derive sizes, and some want ones that hang together."""
    AutoConfig.for_model(architecture).save_pretrained(tmp_path / "model")
    policy = load_policy(stand_in(Model(path="model"), architecture, tmp_path, store))
    assert policy.model.config.model_type == standing_in


def test_a_local_model_is_shrunk_from_its_own_config(outside, store):
    real = outside("qwen2", hidden_size=64, intermediate_size=256, tie_word_embeddings=True)
    policy = load_policy(stand_in(Model(path=Path(real.path).name), "key", Path(real.path).parent, store))
    assert policy.model.config.model_type == "qwen2"
    assert (policy.model.config.hidden_size, policy.model.config.intermediate_size) == (32, 64)
    assert policy.model.config.tie_word_embeddings


def test_what_the_recipe_says_about_a_model_stays(store):
    entry = Model(path="some/model", template="raw", stop=("<|im_end|>",), quantize="4bit")
    policy = load_policy(stand_in(entry, "key", Path(), store))
    assert policy.contract.template == "raw"
    assert policy.tokenizer.convert_ids_to_tokens(policy.contract.stop[0]) == "<|im_end|>"
    assert policy.contract.quantize is None


@pytest.mark.parametrize("form", [name for name in FORMATS if name != "records"])
def test_every_format_has_rows_apart(form, store):
    records = load(stand_in(Data(path="some/dataset", format=form), "key", Path(), store), 0, Path())
    assert len({record.id for record in records}) == ROWS
    assert isinstance(records[0], FORMATS[form].makes)


def test_rows_without_a_format_are_pairs_which_serve_every_stage(store):
    records = load(stand_in(Data(path="some/dataset", limit=5000, skip=100), "key", Path(), store), 0, Path())
    assert records[0].kind == "preference"


def test_the_toy_world_is_only_cut(store):
    entry = Data(path="toy", options={"kind": "prompt"}, limit=500)
    assert stand_in(entry, "key", Path(), store) == entry.model_copy(update={"limit": ROWS})


def test_a_stand_in_for_a_reward_model_scores(store):
    reward = load_reward(stand_in(Model(path="Qwen/Qwen3-0.6B"), "key", Path(), store, head="score"))
    assert reward.model.config.model_type == "qwen3"
    assert reward.has_head


def test_a_stand_in_ends_its_replies_now_and_then(store):
    policy = load_policy(stand_in(Model(path="HuggingFaceTB/SmolLM2-135M", template="plain"), "key", Path(), store))
    made = HFGenerator(policy).generate([(Message("user", "Why?"),)], Sampling(max_new_tokens=48, n=64), seed=0)
    assert 8 < sum(completion.finish == "stop" for completion in made) < 64


def test_a_stage_is_lightened_to_what_the_rows_bear():
    heavy = SFT.model_validate({
        "policy": "$base", "data": ["$a", {"from": "$b", "count": 3}], "epochs": 3, "max_length": 8192,
        "optim": {"batch_size": 128, "lr": 0.1}, "validation": {"share": 0.01}, "lora": {"r": 64},
    })  # fmt: skip
    light = lightened(heavy)
    assert (light.epochs, light.max_length, light.optim.batch_size) == (1.0, 2048, 2)
    assert light.validation.share == 0.25
    assert (light.optim.lr, light.lora, light.data) == (0.1, heavy.lora, heavy.data)
    small = SFT.model_validate({"policy": "$base", "data": "$a", "epochs": 0.5, "optim": {"batch_size": 1}})
    assert lightened(small) == small


def test_a_dataset_that_is_here_lends_its_format(store, tmp_path):
    (tmp_path / "stories.json").write_text('["Once upon a time."]')
    (tmp_path / "good.txt").write_text("fine\n")
    (tmp_path / "bad.txt").write_text("awful\n")
    two = Data(path="good.txt", options={"rejected": "bad.txt"})
    entries = [Data(path="stories.json"), two, Data(path="gone.json")]
    made = [load(stand_in(entry, f"key{n}", tmp_path, store), 0, tmp_path) for n, entry in enumerate(entries)]
    assert [records[0].kind for records in made] == ["text", "preference", "preference"]


def test_prompts_made_of_first_words_stay_apart(store):
    records = load(stand_in(Data(path="gone.json", prompt_words=3), "key", Path(), store), 0, Path())
    assert len({prompt_of(record) for record in records}) == ROWS
