"""Tokenizers from a training text."""

from __future__ import annotations

import pytest

from align.errors import CheckError
from align.models.tokenizers import train_tokenizer

TEXTS = ["Hello there, how are you?\n\nFine; 2 + 3 = 5. It's “quoted”, naïve.", "Hello again."] * 3


@pytest.mark.parametrize("kind", ["words", "bpe", "bytes"])
def test_texts_come_back_as_they_were(kind):
    tokenizer = train_tokenizer(TEXTS, kind, 400)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("kind", ["words", "bpe", "bytes"])
def test_special_tokens_are_apart_and_bos_comes_first(kind):
    tokenizer = train_tokenizer(TEXTS, kind, 400)
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    assert len(set(special)) == 4
    assert tokenizer("Hello")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer("a</s>")["input_ids"][-1] == tokenizer.eos_token_id


def test_words_are_tokens_and_others_unknown():
    tokenizer = train_tokenizer(TEXTS, "words", 400)
    assert tokenizer.tokenize("Hello there, Zebra") == ["Hello", " there", ",", "<unk>"]


def test_sizes():
    assert len(train_tokenizer(TEXTS, "words", 10)) == 10
    assert len(train_tokenizer(TEXTS, "bpe", 270)) == 270
    assert len(train_tokenizer(TEXTS, "bytes")) == 260
    with pytest.raises(CheckError, match="at least 260"):
        train_tokenizer(TEXTS, "bpe", 200)


def test_the_same_texts_give_the_same_tokenizer():
    first, second = (train_tokenizer(TEXTS, "bpe", 300).get_vocab() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("kind", ["words", "bpe", "bytes"])
def test_saving_changes_nothing(kind, tmp_path):
    from align.models.contract import tokenizer_hash
    from align.models.weights import load_tokenizer

    tokenizer = train_tokenizer(TEXTS, kind, 400, template="{{ messages }}")
    tokenizer.save_pretrained(tmp_path)
    found = load_tokenizer(tmp_path)
    assert tokenizer_hash(found) == tokenizer_hash(tokenizer)
    assert found(TEXTS[0])["input_ids"] == tokenizer(TEXTS[0])["input_ids"]
    assert found.chat_template == "{{ messages }}"
