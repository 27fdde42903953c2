"""Stand-ins for `--smoke`: a tiny random model of the same architecture, a few rows of the declared format.

They prove in a minute that a recipe runs from end to end, on any machine and without the network. What they compute
means nothing.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel

from align.config import Data, Model
from align.data import formats, sources
from align.data.convert import prompt_of
from align.errors import DataError
from align.records import Text

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from align.models.weights import Head
    from align.store import Store

Entry = TypeVar("Entry", Model, Data)
V = TypeVar("V")
ROWS = 32
MOST = {
    "batch_size": 2, "epochs": 1.0, "max_length": 2048, "max_new_tokens": 48, "n": 4,
    "num_train_epochs": 1, "max_steps": 8, "max_completion_length": 48, "steps": 3, "minibatches": 2, "min_margin": 0.0,
}  # fmt: skip
"""Of a stage's fields, and of TRL's arguments, the most that so few rows and so small models bear."""
LEAST = {"share": 0.25}
"""The least, likewise: a share of the rows that leaves some on either side."""
INSTEAD = {"doubtful_reward": "allow", "unreliable": "keep"}
"""What stand-ins cannot live up to: a reward model that was trained on nothing is not better than a ruler."""
ENDING = 25.0
"""Factor on the output row of the stop token. A random model would write to the limit; this one ends now and then."""
FAMILIES = {
    r"qwen-?3.*\d+b-a\d+b": "qwen3_moe", r"qwen-?3": "qwen3", r"qwen": "qwen2", r"gemma-?3": "gemma3_text",
    r"gemma-?2(?!b)": "gemma2", r"gemma": "gemma", r"mixtral": "mixtral", r"mistral": "mistral", r"phi-?[34]": "phi3",
    r"gpt-?2": "gpt2", r"pythia|neox": "gpt_neox", r"\bopt-": "opt", r"olmo-?2": "olmo2", r"granite": "granite",
}  # fmt: skip
"""Architectures by the names people give to models; Llama, the commonest, for all others."""


def stand_in(entry: Entry, key: str, base: Path, store: Store, head: Head = "language") -> Entry:
    """An entry of `models:` or `data:` that points at a tiny replacement, made once for each key of an entry.

    base: the folder at which the entry's relative paths start. head: what a model answers with.
    """
    if isinstance(entry, Model):
        folder = store.cached("smoke", f"{key}-{head}", lambda folder: _write_model(entry, base, folder, head))
        return entry.model_copy(update={"path": str(folder.absolute()), "revision": "main", "quantize": None})
    if entry.path == "toy":
        return entry.model_copy(update={"limit": min(ROWS, entry.limit or ROWS), "skip": 0})
    form = _format(entry, base)
    folder = store.cached("smoke", key, lambda folder: _write_rows(form, folder))
    # Not `part`, which of so few rows may be none, nor how the files of the entry are cut.
    options = {name: value for name, value in entry.options.items() if name not in ("separator", "rejected")}
    file = str(folder.absolute() / "rows.jsonl")
    return Data(path=file, format=form.name, prompt_words=entry.prompt_words, options=options)


def _format(entry: Data, base: Path) -> formats.Format:
    """The format that an entry declares, or that its file has if it is here, or pairs, which serve most stages."""
    if entry.format:
        return formats.named(entry.format)
    if entry.prompt_words:
        return formats.named("text")
    with contextlib.suppress(DataError):
        if not sources.is_hub_name(entry.path, base) and (row := next(iter(sources.rows(entry, base)), None)):
            return formats.recognise(row.columns) or formats.named("pairs")
    return formats.named("pairs")


def lightened(value: V) -> V:
    """The same stage with less of what takes time or many rows."""
    return cast(V, _light("", value))


def _light(name: str, value: Any) -> Any:
    if isinstance(value, BaseModel):
        fields = {field: getattr(value, field) for field in type(value).model_fields}
        return value.model_copy(update={f: new for f, old in fields.items() if (new := _light(f, old)) is not old})
    if isinstance(value, dict):
        return {key: _light(key, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_light(name, item) for item in value)
    if name in INSTEAD:
        return INSTEAD[name]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        most = min(value, MOST.get(name, value))
        return type(value)(max(most, LEAST.get(name, most)))
    return value


def _write_model(entry: Model, base: Path, folder: Path, head: Head) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from align.models.policy import from_scratch
    from align.models.tokenizers import train_tokenizer
    from align.models.weights import save_model

    tokenizer = train_tokenizer((), "bytes")
    if entry.stop:
        tokenizer.add_special_tokens({"additional_special_tokens": list(entry.stop)})
    try:
        policy = from_scratch(shrunk(_config(entry, base)), tokenizer)
        policy.model.generate(torch.ones(1, 2, dtype=torch.long), max_new_tokens=2)  # type: ignore[operator]
    except Exception:  # sizes that hang together as only this architecture knows
        policy = from_scratch(shrunk(AutoConfig.for_model("llama")), tokenizer)
    model: Any = policy.model
    model.get_output_embeddings().weight.data[policy.contract.stop[0]] *= ENDING
    if head == "score":
        model.config.num_labels = 1
        model = AutoModelForSequenceClassification.from_config(model.config)
    save_model(model, folder, entry.dtype)
    tokenizer.save_pretrained(folder)


def _write_rows(form: formats.Format, folder: Path) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows(form))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")


def rows(form: formats.Format) -> Iterator[dict[str, Any]]:
    """The format's example over and over, with a number before its prompt, so that no two rows ask the same."""
    record = formats.read(form.example, form, {})[0]
    prompt = prompt_of(record)
    text = prompt[-1].content if prompt else cast(Text, record).text
    asked = json.dumps(text.splitlines()[0])[1:-1]
    whole = json.dumps(form.example)
    for number in range(ROWS):
        yield json.loads(whole.replace(asked, f"({number}) {asked}"))


def _config(entry: Model, base: Path) -> PretrainedConfig:
    """The model's own config where it can be had without the network, else its family's default."""
    from transformers import AutoConfig

    local = base / entry.path
    try:
        if local.is_dir():
            return AutoConfig.from_pretrained(local)
        return AutoConfig.from_pretrained(entry.path, revision=entry.revision, local_files_only=True)
    except (OSError, ValueError):
        family = next((f for name, f in FAMILIES.items() if re.search(name, entry.path, re.IGNORECASE)), "llama")
        return AutoConfig.for_model(family)


def shrunk(config: PretrainedConfig) -> dict[str, Any]:
    """The sizes of a tiny model of the same architecture, as `from_scratch` takes them."""
    config = copy.deepcopy(config).get_text_config(decoder=True)
    small: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
        "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "query_pre_attn_scalar": 8, "max_position_embeddings": 2048, "n_inner": 64, "ffn_dim": 64,
        "word_embed_proj_dim": 32,
    }  # fmt: skip
    heads, groups = (getattr(config, f"num_{kind}_heads", None) for kind in ("attention", "key_value"))
    if heads and groups:
        small["num_key_value_heads"] = max(1, 4 * groups // heads)
    said = config.to_dict().keys()  # what a config derives from others can't be given to it
    known = said | {name for name, meant in config.attribute_map.items() if meant in said}
    kept = {name: value for name, value in small.items() if name in known and getattr(config, name, None) is not None}
    if "layer_types" in known and (types := getattr(config, "layer_types", None)):
        kept["layer_types"] = [*dict.fromkeys(types), types[0]][:2]  # two kinds of layers, where there are
    tied = {"tie_word_embeddings": config.tie_word_embeddings}
    return {"architecture": config.model_type, **tied, **kept}
