"""Models as they lie on disk and as a stage holds them: what policies and reward models have in common.

    model/          full weights with their tokenizer, a plain transformers folder; or
    adapter/        this stage's adapter with the tokenizer, a plain PEFT folder, and
    base.json       what lies beneath it: another artifact by key, merged or not, or a model from outside
    contract.json   what must be found again on loading

An adapter names its base instead of copying it, so a stack is a chain of artifacts, and every link is verified.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.config import Lora, Model
from align.errors import CheckError, ContractError, StoreError
from align.models.adapters import Adapters
from align.models.contract import TOLERANCE, Contract, difference, measured
from align.models.weights import Head, is_classifier, load_model, load_tokenizer, rounded, save_model

if TYPE_CHECKING:
    from align.data.chat import Chat
    from align.store import Artifact, Store

Handover = Literal["continue", "new", "merge-first"]
"""What becomes of the adapters that a policy arrives with: the last one goes on training, a new one is put on top of
them, or they are merged into the weights first."""

BASE = "base.json"
PEFT = "adapter_config.json"
NAMED = ("plain", "raw")
JINJA = re.compile(r"{[{%]")


@dataclass
class Loaded(ABC):
    """A model with what belongs to it, and where it came from."""

    head: ClassVar[Head]

    model: PreTrainedModel
    """The transformers model to call. Adapters are inside it."""
    tokenizer: PreTrainedTokenizerBase
    contract: Contract
    adapters: Adapters
    origin: dict[str, Any] | None = None
    """Where it was loaded from, as an adapter on top would name it; None for a model made in this process."""
    beneath: dict[str, Any] | None = None
    """What the last adapter names as its base."""
    own: str | None = None
    """The adapter that this stage trains; None where it trains all weights, or nothing."""
    has_head: bool = True
    """False for a language model loaded as a reward model: its score head holds nothing yet."""
    again: Callable[[], Self] | None = field(default=None, repr=False)
    """Loads it once more as it was at the start of the stage."""

    @abstractmethod
    def measure(self, ids: list[int]) -> list[float]:
        """The numbers by which the model is known again, for a row of ids."""

    @abstractmethod
    def read_head(self, folder: Path) -> None:
        """Reads the head that lies beside an adapter, where this kind of model has one."""

    @classmethod
    def load(cls, source: Artifact | Model, base: Path | None, store: Store | None, device: str) -> Self:
        """A model from an artifact or from outside, with its whole stack, verified."""
        if isinstance(source, Model):
            loaded = _outside(cls, source, base, device)
        else:
            loaded = _artifact(cls, source, store, device)
        loaded.again = lambda: cls.load(source, base, store, device)
        return loaded

    @cached_property
    def chat(self) -> Chat:
        """How conversations become tokens for this model, and back."""
        from align.data.chat import Chat

        return Chat(self.tokenizer, self.contract.template, self.contract.stop)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that train, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def verify(self, place: str, probes: bool = True) -> None:
        """Raises ContractError unless this is what its contract says."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        measure = self.measure if probes else None
        self.contract.verify(self.tokenizer, dtype, self.adapters.hashes(), measure, place)

    def prepare(self, lora: Lora | None, handover: Handover, seed: int) -> None:
        """Makes ready for training: one adapter and nothing else, or all weights in float32."""
        _check(bool(self.adapters), bool(self.contract.quantize), lora, handover)
        if handover == "continue":
            self.own = self.adapters.names[-1]
            self.adapters.freeze_copy(self.own)
            self.adapters.train(self.own)
            return
        if lora is None:
            self.model.float()
        self.beneath = self.origin
        if handover == "merge-first":
            self.merge()
            self.beneath = {**(self.beneath or {}), "merge": True}
        if lora is None:
            self.model.requires_grad_(True)
        else:
            self.own = self.adapters.add(lora, seed)
            self.adapters.train(self.own)

    def merge(self) -> float:
        """Adds the adapters to the weights for good, and proves that the model computes what it did before.

        Returns the mean difference of the probes' numbers. Above what rounding explains it is a ContractError.
        """
        before = [value for probe in measured(self.tokenizer, self.measure) for value in probe.values]
        self.adapters.merge()
        self.origin = None
        after = [value for probe in measured(self.tokenizer, self.measure) for value in probe.values]
        error = difference(before, after)
        if not error <= TOLERANCE[str(self.model.dtype).removeprefix("torch.")]:
            raise ContractError(f"{self.contract.maker}: merged, the model computes other numbers ({error:.4f} off)")
        return error

    def save(self, folder: Path, maker: str) -> Contract:
        """Writes what a stage made: its adapter and the name of the base, or all weights; and the contract, signed."""
        if self.own is not None:
            if self.beneath is None:
                raise ContractError(f"{maker}: the model beneath the adapter lies on no disk. Save its weights first")
            self.adapters.save(self.own, folder / "adapter")
            (folder / BASE).write_text(json.dumps(self.beneath, indent=1) + "\n")
        elif self.adapters:
            raise ContractError(f"{maker}: there is nothing of its own to save. Merge the adapters first")
        else:
            save_model(self.model, folder / "model", self.contract.dtype)
        self.tokenizer.save_pretrained(folder / ("model" if self.own is None else "adapter"))
        with self.as_saved():
            contract = self.contract.signed(maker, self.adapters.hashes(), self.tokenizer, self.measure)
        contract.write(folder)
        return contract

    @contextmanager
    def as_saved(self) -> Iterator[None]:
        """Within it the weights have the precision they are saved in, so that probes speak of the saved model."""
        wide = {p: p.data for p in self.model.parameters()}
        if self.own is None:
            state = rounded(self.model, self.contract.dtype)
            for name, parameter in self.model.named_parameters():
                parameter.data = state[name]
        try:
            yield
        finally:
            for parameter, data in wide.items():
                parameter.data = data


def bottom(named: dict[str, Any], store: Store | None) -> dict[str, Any]:
    """What lies beneath all adapters of a model, from how an adapter names its base: the model itself, where it has
    full weights, adapters merged into others, or a model from outside."""
    if named.get("merge") or "model" in named:
        return named
    found = store.find(named["artifact"]) if store is not None else None
    if found is None or not (found.path / BASE).is_file():
        return named
    return bottom(json.loads((found.path / BASE).read_text()), store)


def check_handover(source: Artifact | Model, lora: Lora | None, handover: Handover, base: Path | None = None) -> None:
    """Raises CheckError where the adapters that `source` arrives with and what a stage asks for don't fit together.

    base: the folder at which relative paths of outside models start.
    """
    _check(is_adapted(source, base), is_quantized(source), lora, handover)


def is_adapted(source: Artifact | Model, base: Path | None = None) -> bool:
    """Whether a policy arrives with an adapter: its own stage's, or as a PEFT folder that somebody else made."""
    if isinstance(source, Model):
        return ((base or Path()) / Path(source.path).expanduser() / PEFT).is_file()
    return (source.path / "adapter").is_dir()


def is_quantized(source: Artifact | Model) -> bool:
    """Whether the weights of a policy, those beneath its adapters, are 4-bit."""
    return bool(source.quantize if isinstance(source, Model) else Contract.read(source.path).quantize)


def _check(adapted: bool, quantized: bool, lora: Lora | None, handover: Handover) -> None:
    if handover != "new" and not adapted:
        raise CheckError(f"adapter: {handover} needs a policy with an adapter; this one has full weights")
    if handover == "continue" and lora is not None:
        raise CheckError("lora: has no effect with adapter: continue, which trains the policy's adapter as it is")
    if handover == "new" and adapted and lora is None:
        raise CheckError(
            "the policy carries an adapter. Give lora: to train a new one on top of it, adapter: continue to go on "
            "with it, or adapter: merge-first to merge it and train all weights"
        )
    if quantized and (handover == "merge-first" or (lora is None and handover == "new")):
        raise CheckError("4-bit weights can't be trained or merged into; give lora: and leave adapter: new")


L = TypeVar("L", bound=Loaded)


def _artifact(kind: type[L], source: Artifact, store: Store | None, device: str) -> L:
    folder, contract = source.path, Contract.read(source.path)
    same = (source.kind == "reward") == (kind.head == "score")
    if (folder / "model").is_dir():
        model = load_model(folder / "model", contract.dtype, device, head=kind.head, fresh_head=not same)
        tokenizer = load_tokenizer(folder / "model")
        loaded = kind(agree(model, contract), tokenizer, contract, Adapters(model), has_head=same)
    else:
        beneath = json.loads((folder / BASE).read_text())
        loaded = _beneath(kind, beneath, source, store, device)
        loaded.adapters.load(folder / "adapter")
        if same:
            loaded.read_head(folder)
        loaded.has_head = same
        loaded.tokenizer, loaded.contract = load_tokenizer(folder / "adapter"), contract
        loaded.beneath = beneath
    loaded.origin = {"artifact": source.key}
    loaded.verify(f"{source.key} ({folder})", probes=same)
    return loaded


def _beneath(kind: type[L], beneath: dict[str, Any], source: Artifact, store: Store | None, device: str) -> L:
    if "model" in beneath:
        loaded = kind.load(Model.model_validate(beneath["model"]), None, store, device)
    else:
        found = store.find(beneath["artifact"]) if store is not None else None
        if found is None:
            raise StoreError(f"{source.path}: its base, artifact {beneath['artifact']}, is not in the store")
        loaded = kind.load(found, None, store, device)
    if beneath.get("merge"):
        loaded.adapters.merge()
    return loaded


def _outside(kind: type[L], source: Model, base: Path | None, device: str) -> L:
    source = located(source, base)
    adapter = Path(source.path) / PEFT
    if adapter.is_file():  # a PEFT folder that somebody else made
        below = json.loads(adapter.read_text())["base_model_name_or_path"]
        loaded = kind.load(source.model_copy(update={"path": below}), Path(source.path), None, device)
        loaded.adapters.load(Path(source.path))
        loaded.beneath = loaded.origin
        loaded.origin = {"model": source.model_dump(exclude_defaults=True)}
        return loaded
    commit = None if Path(source.path).is_dir() else source.revision
    has_head = kind.head == "language" or is_classifier(source.path, commit)
    model = load_model(
        source.path,
        source.dtype,
        device,
        revision=commit,
        head=kind.head,
        fresh_head=not has_head,
        quantize=source.quantize,
    )
    tokenizer = load_tokenizer(source.path, commit)
    template = template_of(tokenizer, source.template)
    contract = Contract.of(model, tokenizer, source.path, template, source.stop, source.quantize)
    pinned = source.model_copy(update={"revision": getattr(model.config, "_commit_hash", None) or source.revision})
    origin = {"model": pinned.model_dump(exclude_defaults=True)}
    return kind(agree(model, contract), tokenizer, contract, Adapters(model), origin=origin, has_head=has_head)


def template_of(tokenizer: PreTrainedTokenizerBase, asked: str | None) -> str:
    """The chat template to use: `plain`, `raw` or jinja as asked, else the tokenizer's own, else `plain`."""
    if asked in NAMED:
        return asked
    if asked is None:
        return tokenizer.get_chat_template() if tokenizer.chat_template else "plain"
    tokenizer.chat_template = asked if JINJA.search(asked) else Path(asked).read_text()
    return tokenizer.chat_template


def located(source: Model, base: Path | None) -> Model:
    """A model with its local paths made absolute, starting at `base`; hub names stay as they are."""
    base = (base or Path.cwd()).resolve()
    changes = {}
    if (base / source.path).is_dir():
        changes["path"] = str(base / source.path)
    elif source.path.startswith((".", "/", "~")):
        raise ContractError(f"models: there is no folder {base / source.path}")
    if source.template and source.template not in NAMED:
        changes["template"] = str(base / source.template)
        if not Path(changes["template"]).is_file():
            raise ContractError(f"models: there is no template {changes['template']}; known names: {', '.join(NAMED)}")
    return source.model_copy(update=changes)


def agree(model: PreTrainedModel, contract: Contract) -> PreTrainedModel:
    """Tells transformers' own generation and classification what the contract says about ends and padding."""
    model.config.get_text_config().pad_token_id = contract.pad
    if model.generation_config is not None:
        model.generation_config.eos_token_id = list(contract.stop)
        model.generation_config.pad_token_id = contract.pad
    return model
