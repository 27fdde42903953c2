"""What is trained on and with: a model of a given shape with random weights, and rows of given lengths.

Tokens are random words of a vocabulary of the model's own size, so that nothing has to be downloaded and text survives
the way from one tokenizer into another. Speed depends on lengths, not on what is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from align.bench.arithmetic import Lengths
from align.config import Data
from align.constitution import LETTERS
from align.data import load
from align.data.convert import convert
from align.data.tree import Reply, Tree
from align.errors import RecipeError, suggestion
from align.records import Preference

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "architecture": "llama", "vocab_size": 8192, "hidden_size": 128, "intermediate_size": 352,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True,
        "max_position_embeddings": 1024,
    },
    "llama-1b": {
        "architecture": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "tie_word_embeddings": True, "max_position_embeddings": 8192,
    },
}  # fmt: skip
"""Models by name: the 1.85 million parameters of the comparison with TRL, and the shape of Llama 3.2 1B."""


@dataclass(frozen=True)
class Spread:
    """Lengths in tokens, log-normal between limits."""

    median: float
    sigma: float
    low: int
    high: int

    def draw(self, chance: np.random.Generator, count: int) -> list[int]:
        values = self.median * np.exp(self.sigma * chance.standard_normal(count))
        return values.round().clip(self.low, self.high).astype(int).tolist()


MIXES: dict[str, tuple[Spread, Spread]] = {
    "hh-like": (Spread(75, 1.08, 7, 700), Spread(32, 0.9, 2, 300)),
    "short": (Spread(12, 0.3, 6, 24), Spread(12, 0.5, 2, 32)),
    "long": (Spread(500, 0.3, 200, 700), Spread(200, 0.3, 50, 300)),
}
"""Of prompts and of replies. `hh-like` was fitted to the 2,303 pairs of hh-rlhf's harmless test file, cut by a BPE of
8,192: prompts of 122 tokens on average, replies of 42 and 53."""


def drawn(mix: str, pairs: int, seed: int) -> list[Lengths]:
    """Lengths of prompts with two replies each. Raises RecipeError for an unknown name."""
    if mix not in MIXES:
        raise RecipeError(f"--data: {mix!r} is neither a file nor one of {', '.join(MIXES)}.{suggestion(mix, MIXES)}")
    chance = np.random.default_rng(seed)
    prompts, first, second = (spread.draw(chance, pairs) for spread in (*MIXES[mix], MIXES[mix][1]))
    return [Lengths(p, (a, b)) for p, a, b in zip(prompts, first, second, strict=True)]


def read(file: Path, pairs: int, seed: int) -> list[Lengths]:
    """The lengths of a file's preference pairs, a word counted as four thirds of a token, as is usual for English."""
    found = Data(path=str(file), shuffle=True, limit=pairs, on_bad_row="skip")
    records = convert(load(found, seed, Path.cwd()), Preference)

    def size(turns: Sequence[Any]) -> int:
        return max(2, round(sum(len(m.content.split()) for m in turns) * 4 / 3))

    return [Lengths(size(r.prompt), (size(r.chosen), size(r.rejected))) for r in records]


def trees(lengths: Sequence[Lengths], shape: Mapping[str, Any], seed: int, replies: Literal[1, 2]) -> list[Tree]:
    """Trees of these lengths with random tokens, of which none is special; longer ones than the model reads are cut."""
    chance, context = np.random.default_rng([seed, 1]), shape["max_position_embeddings"]

    def ids(count: int) -> np.ndarray:
        return chance.integers(4, shape["vocab_size"], count).astype(np.int32)

    made = []
    for i, row in enumerate(lengths):
        longest = max(row.replies)
        prompt = min(row.prompt, context - min(longest, context // 2))
        kept = [min(n, context - prompt) for n in row.replies[:replies]]
        numbers = {"margin": 0.0, "label": 1.0, "weight": 1.0} if replies == 2 else {}
        made.append(Tree(str(i), ids(prompt), tuple(Reply(ids(n)) for n in kept), numbers))
    return made


def lengths_of(trees: Sequence[Tree]) -> list[Lengths]:
    return [Lengths(len(tree.prompt), tuple(len(reply.ids) for reply in tree.replies)) for tree in trees]


def words(ids: Iterable[int]) -> str:
    """The text of these tokens. The first two that are not special are A and B, the answers to a judge's question."""
    letters = {4 + i: letter for i, letter in enumerate(LETTERS)}
    return " ".join(letters.get(i, f"w{i}") for i in map(int, ids))


def tokenizer(vocabulary: int) -> Any:
    """A word a token, as `words` spells them. Ids 0 to 3 are bos, eos, pad and unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ("<s>", "</s>", "<pad>", "<unk>")
    known = [*special, *words(range(len(special), vocabulary)).split()]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
