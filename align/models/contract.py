"""The contract: what a policy carries beside its weights, and what the next stage must find again.

A saved model is more than its tensors. The tokenizer, the chat template, the ids that end a reply, the filler of
short rows, the type of the weights, the adapters and their order: if one of them changes on the way from stage to
stage, training goes on and the result is worthless. So every policy and reward model is saved with `contract.json`,
which also holds probes: a few texts with their token ids and with the numbers that the model computed for them when
it was saved. Whoever loads the model computes them again (`verify`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict

from align.errors import ContractError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FILE = "contract.json"
PROBES = (
    "The quick brown fox jumps over the lazy dog. Who is the fox?",
    "2 + 3 = 5\n\n  def area(r):\n\treturn 3.14 * r ** 2\n",
    "Ünïcödé „quotes“, 你好, 🙂 and   blanks",
)
PROBE_TOKENS = 48
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 5e-2}
"""Largest mean difference, in nats a token (relative where these exceed 1): kernels and devices differ by less."""

Measure = Callable[[list[int]], list[float]]
"""The numbers by which a model is known again: token ids -> log-probs, or the score of a reward model."""


class Probe(BaseModel):
    """A row of ids and what the model made of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str | None
    """None for a row of ids drawn from the whole vocabulary, which no text stands for."""
    ids: tuple[int, ...]
    values: tuple[float, ...]


class Contract(BaseModel):
    """What must not change between the stage that made a model and the stage that uses it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    maker: str
    """The stage that wrote it, or the path of a model from outside."""
    tokenizer: str
    """Hash of the vocabulary and the special tokens."""
    template: str
    """Chat template: jinja text, or the name of one of align's own (`plain`, `raw`)."""
    bos: int | None
    """The id that the tokenizer puts before every text, if it does."""
    stop: tuple[int, ...]
    """Ids that end a reply; the first is the one to train."""
    pad: int
    """The filler of short rows, never one of `stop`. Masks are made from lengths, never by comparing ids with it."""
    dtype: str
    """Type of the weights: float32, bfloat16, float16."""
    quantize: str | None = None
    """`4bit` if the weights beneath the adapters are quantised on loading."""
    adapters: tuple[str, ...] = ()
    """Hashes of the adapters' tensors, from the lowest to this stage's own."""
    probes: tuple[Probe, ...] = ()

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        maker: str,
        template: str,
        stop: Iterable[str] = (),
        quantize: str | None = None,
    ) -> Self:
        """The contract of a model from outside, without probes. Gives the tokenizer a pad token that is no stop."""
        written = written_end(tokenizer, template)
        ends = stop_ids(model, tokenizer, [*([written] if written else []), *stop])
        pad = choose_pad(tokenizer, ends, rows=_rows(model))
        return cls(
            maker=maker,
            tokenizer=tokenizer_hash(tokenizer),
            template=template,
            bos=bos_id(tokenizer),
            stop=ends,
            pad=pad,
            dtype=str(model.dtype).removeprefix("torch."),
            quantize=quantize,
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The contract saved in an artifact's folder."""
        file = folder / FILE
        if not file.is_file():
            raise ContractError(f"{folder}: not a policy or a reward model: {FILE} is missing")
        return cls.model_validate_json(file.read_text())

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(self.model_dump_json(indent=1) + "\n")

    def signed(self, maker: str, adapters: Iterable[str], tokenizer: PreTrainedTokenizerBase, measure: Measure) -> Self:
        """This contract as another stage hands it on: its name, its adapters, its probes."""
        probes = tuple(measured(tokenizer, measure))
        return self.model_copy(update={"maker": maker, "adapters": tuple(adapters), "probes": probes})

    def verify(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dtype: str,
        adapters: Iterable[str],
        measure: Measure | None,
        place: str,
    ) -> None:
        """Raises ContractError unless what was loaded is what `maker` saved. `place` says from where it was loaded.

        measure: None for a model that got another head and can't compute what the probes hold.
        """
        problems = self._differences(tokenizer, dtype, tuple(adapters))
        if not problems and measure is not None:
            problems = [p for probe in self.probes if (p := self._remeasure(probe, measure))]
        if problems:
            raise ContractError(f"{place}: this is not the model that {self.maker!r} saved: {'; '.join(problems)}")

    def agreement(self, other: Contract) -> list[str]:
        """What keeps two models from sharing token ids, one line each; empty where they agree."""
        return [
            f"{name} differs: {ours!r:.60} ({self.maker}), {theirs!r:.60} ({other.maker})"
            for name in ("tokenizer", "template", "bos", "stop")
            if (ours := getattr(self, name)) != (theirs := getattr(other, name))
        ]

    def _differences(self, tokenizer: PreTrainedTokenizerBase, dtype: str, adapters: tuple[str, ...]) -> list[str]:
        problems = []
        if tokenizer_hash(tokenizer) != self.tokenizer:
            problems.append("the vocabulary or the special tokens changed")
        if dtype != self.dtype:
            problems.append(f"its weights are {dtype}, saved as {self.dtype}")
        if adapters != self.adapters:
            problems.append(f"its adapters changed (saved: {self.adapters or 'none'}; loaded: {adapters or 'none'})")
        for probe in self.probes:
            if probe.text is not None and (ids := encode(tokenizer, probe.text)) != probe.ids:
                problems.append(f"the tokenizer reads {probe.text!r:.30} as {ids[:8]}..., was {probe.ids[:8]}...")
        return problems

    def _remeasure(self, probe: Probe, measure: Measure) -> str | None:
        error = difference(probe.values, measure(list(probe.ids)))
        if error <= TOLERANCE[self.dtype]:  # false for NaN too
            return None
        return f"its numbers for {probe.text or 'a row of ids'!r:.30} are off by {error:.4f} on average"


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The first ids of a text, with the special tokens that the tokenizer adds by itself."""
    return tuple(tokenizer(text)["input_ids"][:PROBE_TOKENS])


def measured(tokenizer: PreTrainedTokenizerBase, measure: Measure) -> Iterable[Probe]:
    """Probes with the model's numbers: the texts above, and a row from all over the vocabulary.

    The texts may be nothing but unknown words to a small tokenizer; the row of ids reaches every part of a vocabulary.
    """
    for text in PROBES:
        ids = encode(tokenizer, text)
        if len(ids) > 1:
            yield Probe(text=text, ids=ids, values=tuple(measure(list(ids))))
    ids = tuple((7919 * i + 13) % len(tokenizer) for i in range(PROBE_TOKENS))
    yield Probe(text=None, ids=ids, values=tuple(measure(list(ids))))


def difference(before: Sequence[float], after: Sequence[float]) -> float:
    """The mean difference of two models' numbers, relative to their size where that exceeds 1."""
    scale = max(1.0, sum(map(abs, before)) / len(before))
    return sum(abs(a - b) for a, b in zip(before, after, strict=True)) / len(before) / scale


@torch.no_grad()
def logps(model: PreTrainedModel, ids: list[int]) -> list[float]:
    """Log-probs, in nats, of every id after the first."""
    was = model.training
    model.eval()
    row = torch.tensor([ids], device=model.device)
    found = torch.log_softmax(model(input_ids=row).logits[0, :-1].float(), dim=-1)
    model.train(was)
    return found.gather(-1, row[0, 1:, None]).squeeze(-1).tolist()


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Names a vocabulary with its special tokens. How it splits texts is left to the probes.

    The pad token is left out: it is ours to choose, and no id of a text depends on it.
    """
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if name != "pad_token"}
    text = json.dumps([sorted(tokenizer.get_vocab().items()), special], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def bos_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The beginning-of-sequence id if the tokenizer puts it before texts by itself."""
    bos = _id(tokenizer, "bos")
    return bos if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else None


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str] = ()) -> tuple[int, ...]:
    """Every id that ends a reply: the generation config's first, since that is how the model was taught to end."""
    found: list[int] = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) != 1:
            raise ContractError(f"stop {text!r} is {len(ids)} tokens; a reply ends with exactly one")
        found += ids
    configs = (model.generation_config, model.config.get_text_config())
    for ids in (*(getattr(config, "eos_token_id", None) for config in configs), _id(tokenizer, "eos")):
        found += [] if ids is None else [ids] if isinstance(ids, int) else ids
    if not found:
        raise ContractError(f"{tokenizer.name_or_path}: no token ends a reply. Name one: stop: ['<|im_end|>']")
    return tuple(dict.fromkeys(found))


def written_end(tokenizer: PreTrainedTokenizerBase, template: str) -> str | None:
    """The special token that a chat template writes right after a reply, such as `<|im_end|>`: it ends replies too.

    A base model's own configuration often names another one, which chats never end with.
    """
    turns = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": "ANSWER"}]
    if "{" not in template:
        return None  # `plain` and `raw` write the model's own
    try:
        text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
    except TemplateError:
        return None  # it wants other turns; those who render real conversations will say so
    after = str(text).rpartition("ANSWER")[2].lstrip()
    special = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return next((token for token in sorted(special, key=len, reverse=True) if after.startswith(token)), None)


def choose_pad(tokenizer: PreTrainedTokenizerBase, stop: tuple[int, ...], rows: int) -> int:
    """An id for short rows that is no stop id (a model whose padding is its end token never learns to end).

    In this order: the tokenizer's own pad token; a special token made for padding or kept in reserve; the unknown
    token; a new `<pad>` in a spare row of the embeddings (`rows`). Embeddings never grow: a new row in the output would
    take probability from the others. Where nothing is left, any id serves as filler and the tokenizer has no pad token.
    """
    special = {text: i for i, t in sorted(tokenizer.added_tokens_decoder.items()) if t.special for text in (str(t),)}
    candidates = [_id(tokenizer, "pad")]
    candidates += [special[t] for word in ("pad", "reserved", "unused") for t in special if re.search(word, t, re.I)]
    candidates.append(_id(tokenizer, "unk"))
    for candidate in candidates:
        if candidate is not None and candidate not in stop and candidate < rows:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(candidate)
            return candidate
    if len(tokenizer) < rows:
        name = "<pad>" if "<pad>" not in tokenizer.get_vocab() else "<|filler|>"
        tokenizer.add_special_tokens({"pad_token": name})
        return len(tokenizer) - 1
    tokenizer.pad_token = None
    return next(i for i in range(rows) if i not in stop)


def _id(tokenizer: PreTrainedTokenizerBase, name: str) -> int | None:
    return cast("int | None", getattr(tokenizer, f"{name}_token_id"))


def _rows(model: PreTrainedModel) -> int:
    embeddings: Any = model.get_input_embeddings()
    return embeddings.weight.shape[0]
