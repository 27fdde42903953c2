"""Two tiny policies, a reward model, prompts, and a context to run stages in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from align.config import Data, Lora, Model
from align.machine import Machine
from align.models.heads import load_reward
from align.models.policy import from_scratch
from align.stage import Context
from align.store import MANIFEST, Artifact, Store

WORDS = "the a cat dog sat ran fell on off mat log happy sad good bad and then so very User: Assistant:"
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 96, "initializer_range": 0.3,
}  # fmt: skip


def tokenizer(known: str = WORDS) -> PreTrainedTokenizerFast:
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    words = {word: i for i, word in enumerate([*special, *dict.fromkeys(known.split())])}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def with_contract(artifact: Artifact, folder: Path, **changes: Any) -> Artifact:
    """The same weights in another folder, under a contract with other entries."""
    shutil.copytree(artifact.path, folder, dirs_exist_ok=True)
    contract = json.loads((folder / "contract.json").read_text())
    (folder / "contract.json").write_text(json.dumps(contract | changes))
    return replace(artifact, path=folder, key=str(folder))


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Policies `base` and `tuned`, which differ in their random weights, and reward models on `base`: `judge` with full
    weights and `adapted`, an adapter."""
    made = {}
    for seed, name in enumerate(("base", "tuned")):
        folder = tmp_path_factory.mktemp(name)
        from_scratch(SIZES, tokenizer(), template="plain", seed=seed).save(folder, name)
        made[name] = Artifact("policy", f"key-of-{name}", folder)
        (folder / MANIFEST).write_text(json.dumps({"kind": "policy", "key": f"key-of-{name}", "metrics": {}}))
    folder = tmp_path_factory.mktemp("judge")
    load_reward(made["base"], train=True, seed=5).save(folder, "judge")
    made["judge"] = Artifact("reward", "key-of-judge", folder)
    folder = tmp_path_factory.mktemp("adapted")
    load_reward(made["base"], train=True, lora=Lora(r=2), seed=5).save(folder, "adapted")
    return made | {"adapted": Artifact("reward", "key-of-adapted", folder)}


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., Data]:
    """Writes rows to a file and returns the dataset."""

    def write(name: str, *found: dict) -> Data:
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
        return Data(path=f"{name}.jsonl")

    return write


@pytest.fixture
def prompts(rows: Callable[..., Data]) -> Data:
    """Twelve prompts of different lengths."""
    words = WORDS.split()
    return rows("prompts", *({"prompt": " ".join(words[: i + 1]), "answer": str(i)} for i in range(12)))


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Context]:
    """A context for a stage with these inputs; events are kept in `context.events`."""

    def make(inputs: Mapping[str, Artifact | Model | Data], seed: int = 0, **machine: int) -> Context:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        make.events = []
        store = Store(tmp_path / "store")
        (store.inside / "artifacts").mkdir(parents=True, exist_ok=True)
        for made in inputs.values():  # also what adapters lie on is looked for in the store
            if isinstance(made, Artifact) and (made.path / MANIFEST).is_file() and not store.find(made.key):
                (store.inside / "artifacts" / made.key).symlink_to(made.path)
        return Context(
            stage="it", type="it", key="key", seed=seed, inputs=inputs,
            store=store, work=tmp_path / "work",
            keys={name: getattr(taken, "key", f"key-of-{name}") for name, taken in inputs.items()}, out=out,
            machine=Machine(device="cpu", **machine), base=tmp_path,
            emit=lambda event, **values: make.events.append({"event": event, **values}),
        )  # fmt: skip

    return make
