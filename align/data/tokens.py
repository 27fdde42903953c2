"""From records to trees, kept between runs under a key of everything that made them.

A key that misses something would hand a stage the tokens of another tokenizer or template, silently. So a few rows of
a cache are made again whenever it is read, and a difference is an error.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import tokenizers
import transformers

from align.data.chat import Chat
from align.data.maker import UNSPELLED, Dropped, Maker, Rows
from align.data.tree import Reply, Tree
from align.errors import CheckError, DataError
from align.records import Record

if TYPE_CHECKING:
    from align.store import Store

RECHECKED = 8
UNSPELLED_LIMIT = 0.1
"""The share of rows that may be left out because the tokenizer does not know pieces of their replies."""
R = TypeVar("R", bound=Record)


def trees(
    records: Sequence[Record], chat: Chat, max_length: int, *, truncate: bool = False, limit: float = 0.1,
    store: Store | None = None,
) -> tuple[list[Tree], Dropped]:  # fmt: skip
    """Trees of Demonstrations, Preferences or Texts, and an account of what was left out.

    A Demonstration is a prompt and one reply, which holds all turns after the first supervised one; a Preference is a
    prompt with its chosen and its rejected reply, in that order, and the numbers `margin`, `label` and `weight`. Texts
    are cut into windows that share one token, so that every token but the first is predicted once.

    max_length: tokens of a prompt with one reply. truncate: cut replies that are longer instead of leaving them out.
    limit: the share of rows whose length may cost them something; more is an error. store: keeps the tokens.
    """
    rows, account = _rows(records, chat, max_length, truncate, limit, store)
    return [tree for _, tree in rows], account


def fitting(
    records: Sequence[R], chat: Chat, max_length: int, *, limit: float = 0.1, store: Store | None = None
) -> tuple[list[R], Dropped]:
    """The records that `trees` makes trees of, for a trainer that makes tokens of its own."""
    rows, account = _rows(records, chat, max_length, False, limit, store)
    return [records[index] for index in sorted({index for index, _ in rows})], account


def _rows(
    records: Sequence[Record], chat: Chat, max_length: int, truncate: bool, limit: float, store: Store | None
) -> tuple[Rows, Dropped]:
    if not records:
        raise DataError("there are no records to train on")
    if store is None:
        rows, account = Maker(chat, max_length, truncate).make(records)
    else:
        rows, account = _cached(store, records, chat, max_length, truncate)
    _check_account(account, limit, max_length, bool(rows))
    return rows, account


def _check_account(account: Dropped, limit: float, max_length: int, any_left: bool) -> None:
    share = account.too_long / account.rows
    if share > limit:
        raise CheckError(
            f"{share:.1%} of the rows are longer than {max_length} tokens; {limit:.1%} may be ({account}). "
            "Raise max_length, or leave long rows out by max_words"
        )
    if (unspelled := account.reasons[UNSPELLED] / account.rows) > UNSPELLED_LIMIT:
        raise CheckError(
            f"{unspelled:.1%} of the rows have a reply with pieces that the tokenizer does not know ({account}): "
            "they are of another model's language"
        )
    if not any_left:
        raise CheckError(f"no row is left to train on ({account})")


def _cached(
    store: Store, records: Sequence[Record], chat: Chat, max_length: int, truncate: bool
) -> tuple[Rows, Dropped]:
    key = _key(records, chat, max_length, truncate)
    folder = store.cached("tokens", key, lambda path: _save(path, *Maker(chat, max_length, truncate).make(records)))
    rows, account = _load(folder)
    _recheck(folder, rows, records, Maker(chat, max_length, truncate))
    return rows, account


def _key(records: Sequence[Record], chat: Chat, max_length: int, truncate: bool) -> str:
    """Names tokens by all that makes them: code, tokenizer, template, stop ids, lengths, contents."""
    made = hashlib.sha256()
    settings = (chat.template, chat.raw, chat.stop, max_length, truncate)
    for part in (*_code(), _tokenizer(chat), *map(str, settings)):
        made.update(part.encode() + b"\0")
    for record in records:
        made.update(json.dumps(record.row(), sort_keys=True, default=str).encode() + b"\n")
    return made.hexdigest()[:32]


def _code() -> Iterator[str]:
    yield from (transformers.__version__, tokenizers.__version__)
    folder = Path(__file__).parent
    yield from ((folder / name).read_text() for name in ("chat.py", "convert.py", "maker.py", "tree.py"))


def _tokenizer(chat: Chat) -> str:
    """All that a tokenizer's answers depend on."""
    backend = getattr(chat.tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else json.dumps(chat.tokenizer.get_vocab(), sort_keys=True)
    return vocabulary + json.dumps(chat.tokenizer.special_tokens_map, sort_keys=True, default=str)


def _save(folder: Path, rows: Rows, account: Dropped) -> None:
    replies = [reply for _, tree in rows for reply in tree.replies]
    names = sorted({name for _, tree in rows for name in tree.numbers})
    empty = np.zeros(0, np.int32)
    arrays = dict(
        record=np.array([index for index, _ in rows], np.int64),
        prompts=np.concatenate([empty, *(tree.prompt for _, tree in rows)]),
        prompt_sizes=np.array([len(tree.prompt) for _, tree in rows], np.int64),
        reply_counts=np.array([len(tree.replies) for _, tree in rows], np.int64),
        ids=np.concatenate([empty, *(reply.ids for reply in replies)]),
        sizes=np.array([len(reply.ids) for reply in replies], np.int64),
        partly=np.array([reply.scored is not None for reply in replies], bool),
        scored=np.concatenate([np.zeros(0, bool), *(_scored(reply) for reply in replies)]),
        **{f"number_{name}": np.array([tree.numbers[name] for _, tree in rows]) for name in names},
    )
    np.savez(folder / "trees.npz", **arrays)  # pyright: ignore[reportArgumentType]
    told = {"ids": [tree.id for _, tree in rows], "account": vars(account)}
    (folder / "account.json").write_text(json.dumps(told))


def _scored(reply: Reply) -> np.ndarray:
    return np.ones(len(reply.ids), bool) if reply.scored is None else reply.scored


def _load(folder: Path) -> tuple[Rows, Dropped]:
    saved = json.loads((folder / "account.json").read_text())
    with np.load(folder / "trees.npz") as file:
        arrays = dict(file)
    names = [name for name in arrays if name.startswith("number_")]
    prompts = _parts(arrays["prompts"], arrays["prompt_sizes"])
    ids, scored = (_parts(arrays[name], arrays["sizes"]) for name in ("ids", "scored"))
    cut = zip(ids, scored, arrays["partly"], strict=True)
    replies = iter([Reply(row, mask if partly else None) for row, mask, partly in cut])
    rows = [
        (int(index), Tree(name, prompt, tuple(islice(replies, int(count))),
                          {n.removeprefix("number_"): float(arrays[n][at]) for n in names}))
        for at, (index, name, prompt, count) in enumerate(
            zip(arrays["record"], saved["ids"], prompts, arrays["reply_counts"], strict=True)
        )
    ]  # fmt: skip
    account = saved["account"]
    return rows, Dropped(**{**account, "reasons": Counter(account["reasons"])})


def _parts(flat: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    return np.split(flat, np.cumsum(sizes)[:-1]) if len(sizes) else []


def _recheck(folder: Path, rows: Rows, records: Sequence[Record], maker: Maker) -> None:
    """Makes a few rows of a cache again. A difference means that its key misses something it depends on."""
    indices = sorted({index for index, _ in rows})
    chosen = set(indices[:: max(1, len(indices) // RECHECKED)][:RECHECKED])
    fresh, _ = maker.make([records[i] for i in sorted(chosen)])
    kept = [tree for index, tree in rows if index in chosen]
    if len(fresh) != len(kept) or not all(_same(a, b) for a, (_, b) in zip(kept, fresh, strict=True)):
        raise CheckError(f"{folder}: these tokens are not what the tokenizer and template make now. Delete the folder")


def _same(a: Tree, b: Tree) -> bool:
    return (
        np.array_equal(a.prompt, b.prompt) and len(a.replies) == len(b.replies) and a.numbers == b.numbers
        and all(np.array_equal(x.ids, y.ids) and np.array_equal(_scored(x), _scored(y))
                for x, y in zip(a.replies, b.replies, strict=True))
    )  # fmt: skip
