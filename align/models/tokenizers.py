"""Tokenizers made from a training text, for models from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from align.errors import CheckError

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
WORDS = r" ?\w+| ?[^\w\s]|\s"
"""A word or a mark with the blank before it, or one whitespace character: put together again they are the text."""


def train_tokenizer(
    texts: Iterable[str], kind: Literal["words", "bpe", "bytes"], vocabulary: int = 8192, template: str | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer with `<s>` before every text and `</s>`, `<pad>` and `<unk>` apart, the same for the same texts.

    `words`: every word or mark, with the blank before it, is a token; others are `<unk>`. `bpe`: pairs of bytes that
    occur often, so any text can be read. `bytes`: the 256 bytes, nothing learnt. vocabulary: at most so many tokens,
    the special ones included. Decoding gives back the text.
    """
    special = list(SPECIAL.values())
    smallest = len(special) + (1 if kind == "words" else 256)
    if kind != "bytes" and vocabulary < smallest:
        raise CheckError(f"tokenizer.vocabulary: {vocabulary} is too small for {kind!r}: at least {smallest}")
    if kind == "words":
        core = Tokenizer(models.WordLevel(unk_token=SPECIAL["unk_token"]))
        core.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "isolated")
        core.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary if kind == "bpe" else smallest,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    core.train_from_iterator(texts if kind != "bytes" else (), trainer)
    bos = SPECIAL["bos_token"]
    core.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, core.token_to_id(bos))]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **SPECIAL)
    made.chat_template = template
    return made
