"""Inputs of the data tests: files written on the spot, a byte-level tokenizer, and real files where there are any."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from align.data.chat import Chat
from align.models.tokenizers import train_tokenizer

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real inputs."""
    folder = Path(os.environ.get("ALIGN_DATA", Path(__file__).parents[3] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real inputs are not here: {folder}/data is missing (set ALIGN_DATA)")
    return folder


@pytest.fixture(scope="session")
def stories(real: Path) -> PreTrainedTokenizerBase:
    """A tokenizer of sentencepiece's kind, which puts a blank before every text; the model ends with 1 or 2."""
    return AutoTokenizer.from_pretrained(real / "models" / "stories260K")


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    """Bytes, with ChatML's marks as special tokens and its template."""
    made = train_tokenizer((), "bytes", template=CHATML)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return made


@pytest.fixture
def end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the mark that ends a message."""
    return tokenizer.convert_tokens_to_ids("<|im_end|>")  # type: ignore[return-value]


@pytest.fixture
def chat(tokenizer: PreTrainedTokenizerBase, end: int) -> Chat:
    return Chat(tokenizer, tokenizer.chat_template, (end,))  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """`file("rows.jsonl", text)` writes a file and returns its path."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write
