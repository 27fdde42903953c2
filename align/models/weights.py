"""Weights in and out of folders: nothing missing, nothing left over, nothing damaged."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging

from align.errors import ContractError, DependencyError

logging.disable_progress_bar()  # align shows its own progress

Head = Literal["language", "score"]
"""What a model answers with: logits over the vocabulary, or one score."""

CLASSES: dict[Head, Any] = {"language": AutoModelForCausalLM, "score": AutoModelForSequenceClassification}
SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def device_of(device: str | torch.device) -> torch.device:
    """A torch device; `auto` is CUDA where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def load_model(
    path: str | Path,
    dtype: str,
    device: str | torch.device = "cpu",
    *,
    revision: str | None = None,
    head: Head = "language",
    fresh_head: bool = False,
    quantize: str | None = None,
) -> PreTrainedModel:
    """A model in eval mode, from a folder or the hub. A missing or an unexpected tensor is a ContractError.

    fresh_head: the folder holds a language model; its output layer is left out and the score head is yet to be set.
    """
    # Told to ignore tensors of another shape, transformers lists them; they are fatal below.
    options: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    options["dtype"] = getattr(torch, dtype)
    if not Path(path).is_dir():
        options["revision"] = revision
    if head == "score":
        options["num_labels"] = 1
    if quantize:
        options |= _four_bits(getattr(torch, dtype), device_of(device))
    try:
        with quiet():
            model, info = CLASSES[head].from_pretrained(str(path), **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise ContractError(f"{path}: no model can be loaded from here: {str(error).splitlines()[0]}") from error
    known = ("score.", "lm_head.", "embed_out.") if fresh_head else ()
    for what in ("missing", "unexpected", "mismatched"):
        keys = sorted(str(k) for k in info[f"{what}_keys"] if not str(k).startswith(known or "\0"))
        if keys:
            raise ContractError(
                f"{path}: {len(keys)} {what} tensors in the checkpoint of a {type(model).__name__}: "
                f"{', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
            )
    if not model.can_generate():  # a classifier leaves the ends of replies, which it reads too, in their file
        model.generation_config = generation_config(path, options.get("revision"))
    return (model if quantize else model.to(device_of(device))).eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Within it transformers reports errors only: what is missing or left over is judged here."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def generation_config(path: str | Path, revision: str | None = None) -> GenerationConfig | None:
    """The generation config of a folder or a hub name, if it has one."""
    try:
        return GenerationConfig.from_pretrained(str(path), revision=revision or "main")
    except OSError:
        return None


def is_classifier(path: str | Path, revision: str | None = None) -> bool:
    """Whether a folder or a hub name holds a sequence classifier rather than a language model."""
    options = {} if Path(path).is_dir() or revision is None else {"revision": revision}
    architectures = AutoConfig.from_pretrained(str(path), **options).architectures or []
    return any(name.endswith("ForSequenceClassification") for name in architectures)


def load_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or a hub name."""
    options = {} if Path(path).is_dir() or revision is None else {"revision": revision}
    try:
        return AutoTokenizer.from_pretrained(str(path), **options)
    except (OSError, ValueError) as error:
        raise ContractError(f"{path}: no tokenizer can be loaded from here: {str(error).splitlines()[0]}") from error


def _four_bits(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    if device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        raise DependencyError("quantize: 4bit needs a CUDA device and bitsandbytes (pip install bitsandbytes)")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config, "device_map": {"": device.index or 0}}


def save_model(model: PreTrainedModel, folder: Path, dtype: str) -> None:
    """Writes a model as a transformers folder in `dtype` and reads the headers back."""
    untie_if_apart(model)
    state = rounded(model, dtype)
    elements = sum(tensor.numel() for tensor in {tensor.data_ptr(): tensor for tensor in state.values()}.values())
    model.save_pretrained(folder, state_dict=state)  # empties `state`
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": dtype}, indent=2, sort_keys=True) + "\n")
    scan(folder, elements)


def rounded(model: nn.Module, dtype: str) -> dict[str, Tensor]:
    """The state of a model in the type it is saved in (training keeps float32 weights); shared tensors stay shared."""
    made: dict[tuple[int, torch.Size], Tensor] = {}
    state = {}
    for name, tensor in model.state_dict().items():
        to = getattr(torch, dtype) if tensor.is_floating_point() else tensor.dtype
        state[name] = made.setdefault((tensor.data_ptr(), tensor.shape), tensor.detach().to(to))
    return state


def untie_if_apart(model: PreTrainedModel) -> None:
    """Makes the config say what is so when input and output embeddings, tied by the config, have come apart.

    Saved under a config that ties them, one of the two would be lost.
    """
    inputs, outputs = cast(Any, model.get_input_embeddings()), cast(Any, model.get_output_embeddings())
    if outputs is None or not model.all_tied_weights_keys or inputs.weight is outputs.weight:
        return
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
    model.all_tied_weights_keys = {}


def headers(folder: Path) -> dict[str, dict[str, Any]]:
    """Type, shape and offsets of every tensor in a folder's safetensors files, from their headers alone."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            tensors = {k: v for k, v in json.loads(opened.read(size)).items() if k != "__metadata__"}
        end = 8 + size + max((t["data_offsets"][1] for t in tensors.values()), default=0)
        if end != file.stat().st_size:
            raise ContractError(f"{file}: its header speaks of {end} bytes, the file has {file.stat().st_size}")
        found |= tensors
    return found


def scan(folder: Path, elements: int) -> None:
    """Raises ContractError unless the safetensors files of a folder hold exactly so many numbers, no tensor empty.

    Counted rather than compared by name: transformers saves some architectures under other names than it computes with.
    """
    held = 0
    for name, tensor in headers(folder).items():
        count = 1
        for side in tensor["shape"]:
            count *= side
        begin, end = tensor["data_offsets"]
        if count == 0 or end - begin != count * SIZES.get(tensor["dtype"], 1):
            raise ContractError(f"{folder}: tensor {name} of shape {tensor['shape']} has {end - begin} bytes")
        held += count
    if held != elements:
        raise ContractError(f"{folder}: {held:,} numbers were saved, the model has {elements:,}")
