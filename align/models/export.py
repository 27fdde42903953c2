"""Models for use elsewhere: plain transformers or PEFT folders with a card that says where they come from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from align.config import Model
from align.errors import ContractError
from align.models.contract import TOLERANCE, difference, measured
from align.models.heads import HEAD, Reward, load_reward
from align.models.loaded import BASE, Loaded
from align.models.policy import Policy, load_policy
from align.models.weights import save_model

if TYPE_CHECKING:
    from align.store import Ancestor, Artifact, Store


def export(artifact: Artifact, folder: Path, merged: bool, store: Store) -> None:
    """Writes a policy or a reward model into a new folder that needs nothing else.

    merged: one transformers folder, adapters added to the weights. Otherwise `base/` and the adapters, one PEFT folder
    each, in the order in which they lie on each other; a base from outside is named, not copied.
    """
    if artifact.kind not in ("policy", "reward"):
        raise ContractError(f"{artifact.key}: {artifact.kind} can't be exported, only policies and reward models")
    if folder.exists() and any(folder.iterdir()):
        raise ContractError(f"{folder} is not empty: choose a new folder")
    load = load_policy if artifact.kind == "policy" else load_reward
    loaded = load(artifact, store=store)
    folder.mkdir(parents=True, exist_ok=True)
    base = None
    if loaded.adapters and not merged:
        base = _write_adapters(loaded, artifact, folder, store)
    else:
        if loaded.adapters:
            loaded.merge()
        save_model(loaded.model, folder, loaded.contract.dtype)
    loaded.tokenizer.chat_template = portable_template(loaded)
    loaded.tokenizer.save_pretrained(folder)
    if base is None:
        _prove(loaded, folder)
    (folder / "README.md").write_text(card(artifact, loaded, base, store))


def portable_template(loaded: Loaded) -> str:
    """The chat template as jinja that needs no align: its own ones know their BOS and end token by name."""
    contract, tokenizer = loaded.contract, loaded.tokenizer
    if contract.template == loaded.chat.template or contract.template not in ("plain", "raw"):
        return contract.template
    bos = "" if contract.bos is None else tokenizer.convert_ids_to_tokens(contract.bos)
    end = tokenizer.convert_ids_to_tokens(contract.stop[0])
    return f"{{%- set bos_token = {bos!r} %}}{{%- set eos_token = {end!r} %}}{loaded.chat.template}"


def _prove(loaded: Loaded, folder: Path) -> None:
    """Loads what was written as a stranger would, and compares the numbers."""
    kind = type(loaded)
    found = kind.load(Model(path=str(folder.resolve()), dtype=loaded.contract.dtype), None, None, "cpu")  # type: ignore[arg-type]
    with loaded.as_saved():
        probes = list(measured(loaded.tokenizer, loaded.measure))
    errors = [difference(probe.values, found.measure(list(probe.ids))) for probe in probes]
    if not max(errors) <= TOLERANCE[loaded.contract.dtype]:
        raise ContractError(f"{folder}: loaded again, it computes other numbers ({max(errors):.4f} off)")


def _write_adapters(loaded: Loaded, artifact: Artifact, folder: Path, store: Store) -> str:
    """Writes the stack's parts and returns the name of its base: a hub name, a path, or `base`."""
    bottom = _bottom(artifact, store)
    if "artifact" in bottom:
        base, copied = "base", store.find(bottom["artifact"])
        assert copied is not None  # the stack was just loaded from it
        shutil.copytree(copied.path / "model", folder / "base")
    else:
        base = bottom["model"]["path"]
    places = [folder] if len(loaded.adapters.names) == 1 else [folder / name for name in loaded.adapters.names]
    for name, place in zip(loaded.adapters.names, places, strict=True):
        loaded.adapters.save(name, place, base)
    if isinstance(loaded, Reward):
        shutil.copyfile(artifact.path / HEAD, folder / HEAD)
    return base


def _bottom(artifact: Artifact, store: Store) -> dict[str, Any]:
    """What lies beneath all adapters of an artifact, as `base.json` says it."""
    beneath = json.loads((artifact.path / BASE).read_text())
    if beneath.get("merge"):
        raise ContractError(f"{artifact.key}: adapters were merged beneath its own; export it merged")
    below = store.find(beneath["artifact"]) if "artifact" in beneath else None
    return _bottom(below, store) if below is not None and (below.path / BASE).is_file() else beneath


# The card


def card(artifact: Artifact, loaded: Loaded, base: str | None, store: Store) -> str:
    """A model card: what it is, how it was measured, from what it was made and how, and how to load it."""
    manifest = artifact.manifest
    front = {
        "library_name": "transformers" if base is None else "peft",
        "pipeline_tag": "text-generation" if isinstance(loaded, Policy) else "text-classification",
        "tags": ["align", manifest["type"]],
        **({"base_model": base} if base not in (None, "base") else {}),
    }
    metrics = "\n".join(f"| {name} | {value:.6g} |" for name, value in sorted(artifact.metrics.items()))
    settings = yaml.safe_dump(manifest["fields"], sort_keys=False, allow_unicode=True).strip()
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    return "\n".join([
        "---", yaml.safe_dump(front, sort_keys=False).strip(), "---",
        f"# {manifest['recipe']}/{manifest['stage']}", "",
        f"A {'policy' if isinstance(loaded, Policy) else 'reward model'} made by align's stage `{manifest['type']}`.",
        f"Key `{artifact.key}`, seed {manifest['seed']}, finished {manifest['finished']}, on {manifest['device']}.",
        "", "## Use", "", "```python", _usage(loaded, base), "```",
        "", "## Metrics", "", "| metric | value |", "|---|---|", metrics,
        "", "## Lineage", "", "```", *_lines(store.lineage(artifact)), "```",
        "", "## Settings", "", "```yaml", settings, "```", "", f"Versions: {versions}.", "",
    ])  # fmt: skip


def _usage(loaded: Loaded, base: str | None) -> str:
    auto = "AutoModelForCausalLM" if isinstance(loaded, Policy) else "AutoModelForSequenceClassification"
    options = f'dtype="{loaded.contract.dtype}"' + ("" if isinstance(loaded, Policy) else ", num_labels=1")
    start = "FOLDER" if base is None else "FOLDER/base" if base == "base" else base
    lines = [
        f"from transformers import {auto}, AutoTokenizer",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        f'model = {auto}.from_pretrained("{start}", {options})',
    ]
    if base is None:
        return "\n".join(lines)
    first, *others = loaded.adapters.names
    lines.insert(0, "from peft import PeftModel")
    if others:
        lines.append(f'model = PeftModel.from_pretrained(model, "FOLDER/{first}", adapter_name="{first}")')
        lines += [f'model.load_adapter("FOLDER/{name}", adapter_name="{name}")' for name in others]
        lines.append(f"model.base_model.set_adapter({[first, *others]})  # all at once: they add up")
    else:
        lines.append('model = PeftModel.from_pretrained(model, "FOLDER")')
    if isinstance(loaded, Reward):
        lines.insert(1, "from safetensors.torch import load_file")
        lines.append(f'model.get_base_model().score.load_state_dict(load_file("FOLDER/{HEAD}"))')
    return "\n".join(lines)


def _lines(ancestor: Ancestor, depth: int = 0) -> list[str]:
    what = f"{ancestor.field}: " if ancestor.field else ""
    made = f" ({ancestor.artifact.manifest['type']})" if ancestor.artifact else ""
    head = f"{'  ' * depth}{what}{ancestor.name}{made} {ancestor.key[:12]}"
    return [head, *(line for below in ancestor.inputs for line in _lines(below, depth + 1))]
