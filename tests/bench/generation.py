"""Decoding beside transformers' `generate`, one thread: `python tests/bench/generation.py stories hh`.

Needs what README.md describes under $ALIGN_DATA (default ../shared). `stories`: stories260K and beginnings of stories
of 3 to 42 words; replies end where the model ends them. `hh`: a Llama of 1.85 M parameters from scratch and prompts of
hh-rlhf as they come, of 10 to 850 tokens; a share of its vocabulary ends replies, and its weights are drawn so wide
that greedy replies do not go in circles. `hh-short`: the same model, and only prompts of up to 64 tokens.

transformers decodes 64 prompts at once, padded on the left, and also as one would who knows how: sorted by length, in
the batch that a first run finds fastest. It takes turns with align; seconds of the processor decide. Tokens behind a
reply's stop id do not count. Greedy replies that are the same are counted: where two tokens are equally likely but for
rounding, they may part.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import torch
from measuring import DATA, Row, Stopwatch, alone, device, peak, ratio, save, say, spread
from transformers.utils import logging

from align.config import Data, Model, Sampling
from align.data import load
from align.generate.hf import HFGenerator
from align.models.policy import Policy, from_scratch, load_policy
from align.models.tokenizers import train_tokenizer
from align.records import Message, Messages, Preference

SIZES = {
    "architecture": "llama", "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True, "max_position_embeddings": 1024,
    "initializer_range": 0.3,
}  # fmt: skip
PROMPTS, LONGEST, SHORT, ENDING = 64, 850, 64, 100
"""ENDING: one of so many tokens of the random model's vocabulary ends a reply."""
NEW = {"stories": 390, "hh": 128, "hh-short": 128}
BATCHES = (64, 32, 16)
Work = tuple[Policy, list[Messages]]


@dataclass(frozen=True)
class Setting:
    """Who decodes, and how."""

    side: str
    """`align` or `generate`."""
    batch: int = PROMPTS
    ordered: bool = False
    """Whether prompts come by length."""

    def __str__(self) -> str:
        return f"{self.side}, batch {self.batch}{', by length' if self.ordered else ''}"


def stories(seed: int) -> Work:
    texts = json.loads((DATA / "data/tinystories-sample/tinystories_1000.json").read_text())
    policy = load_policy(Model(path=str(DATA / "models/stories260K"), template="raw"))
    chosen = random.Random(seed).sample(texts, PROMPTS)
    return policy, [(Message("user", " ".join(text.split()[: 3 + 7 * i % 40])),) for i, text in enumerate(chosen)]


def hh(seed: int, longest: int = LONGEST) -> Work:
    file = DATA / "data/hh-rlhf/test.jsonl.gz"
    records = load(Data(path=str(file), format="hh", on_bad_row="skip"), seed, Path.cwd())
    pairs = [record for record in records if isinstance(record, Preference)]
    texts = [m.content for r in pairs for m in (*r.prompt, *r.chosen, *r.rejected)]
    policy = from_scratch(SIZES, train_tokenizer(texts, "bpe", 8192), template="plain", seed=seed)
    known = sorted(dict.fromkeys(r.prompt for r in pairs if len(policy.chat.prompt(r.prompt)) <= longest), key=str)
    stop = random.Random(seed).sample(range(len(policy.tokenizer)), len(policy.tokenizer) // ENDING)
    policy.contract = policy.contract.model_copy(update={"stop": tuple(stop)})
    return policy, random.Random(seed).sample(known, PROMPTS)


TITLES = {"stories": "replies of stories260K", "hh": "replies to HH prompts", "hh-short": "replies to short HH prompts"}
TASKS = {"stories": stories, "hh": hh, "hh-short": lambda seed: hh(seed, SHORT)}


def measured(work: Work, sampling: Sampling, setting: Setting) -> Row:
    """Seconds, memory and the replies' tokens."""
    policy, asked = work
    torch.set_num_threads(1)
    torch.manual_seed(0)
    watch, start = Stopwatch(), peak()
    with watch.running():
        ids = (ours if setting.side == "align" else theirs)(policy, asked, sampling, setting)
    return {"cpu": watch.cpu, "wall": watch.wall, "start_bytes": start, "peak_bytes": peak(), "ids": ids}


def ours(policy: Policy, asked: list[Messages], sampling: Sampling, setting: Setting) -> list[list[int]]:
    return [list(c.ids) for c in HFGenerator(policy, setting.batch).generate(asked, sampling, seed=0)]


def theirs(policy: Policy, asked: list[Messages], sampling: Sampling, setting: Setting) -> list[list[int]]:
    rows = {i: policy.chat.prompt(prompt) for i, prompt in enumerate(asked)}
    order = sorted(rows, key=lambda i: len(rows[i])) if setting.ordered else list(rows)
    made: dict[int, list[int]] = {}
    for begin in range(0, len(order), setting.batch):
        part = order[begin : begin + setting.batch]
        made |= dict(zip(part, _generated(policy, [rows[i] for i in part], sampling), strict=True))
    return [made[i] for i in rows]


def _generated(policy: Policy, rows: list[list[int]], sampling: Sampling) -> list[list[int]]:
    pad, stop, width = policy.contract.pad, set(policy.contract.stop), max(map(len, rows))
    drawn: dict[str, Any] = {"do_sample": True, "top_k": 0} if sampling.temperature else {"do_sample": False}
    with torch.no_grad():
        made = policy.model.generate(
            torch.tensor([[pad] * (width - len(row)) + row for row in rows]),
            attention_mask=torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
            max_new_tokens=sampling.max_new_tokens, eos_token_id=sorted(stop), pad_token_id=pad, **drawn,
        )  # fmt: skip
    replies = made[:, width:].tolist()
    ends = [next((i + 1 for i, token in enumerate(reply) if token in stop), len(reply)) for reply in replies]
    return [reply[:end] for reply, end in zip(replies, ends, strict=True)]


def compared(work: Work, sampling: Sampling, repetitions: int) -> Row:
    """Tokens a second of all, and how many times as fast align is as `generate` as it comes, and at its fastest."""
    settings = [Setting("generate", batch, True) for batch in BATCHES]
    tried = {setting: _measured(work, sampling, setting) for setting in settings}
    best = max(tried, key=lambda setting: _speed(tried[setting]))
    align, plain = Setting("align"), Setting("generate")
    turns: dict[Setting, list[Row]] = {setting: [] for setting in (align, plain, best)}
    for _ in range(repetitions):
        for setting, rows in turns.items():
            rows.append(_measured(work, sampling, setting))
    ours = [_speed(row) for row in turns[align]]
    beside = [
        {"what": f"`generate` {how}", "setting": str(setting).removeprefix("generate, "), **figures(turns[setting])}
        | {"times_faster": ratio(ours, [_speed(row) for row in turns[setting]])}
        for how, setting in (("as it comes", plain), ("at its fastest", best))
    ]
    same = sum(a == b for a, b in zip(turns[align][0]["ids"], turns[plain][0]["ids"], strict=True))
    found = {"device": device(), **figures(turns[align]), "beside": beside}
    return found if sampling.temperature else found | {"same_replies": same}


def _measured(work: Work, sampling: Sampling, setting: Setting) -> Row:
    row = alone(measured, work, sampling, setting)
    say(f"  {setting}: {row['cpu']:.2f} s of processor, {_speed(row):,.0f} tokens/s")
    return row


def _speed(row: Row) -> float:
    return sum(map(len, row["ids"])) / row["cpu"]


def figures(rows: list[Row]) -> Row:
    """Tokens a second of processor, lengths of replies, and memory."""
    lengths = sorted(map(len, rows[0]["ids"]))
    return {
        "unit": "tokens", "per_second": spread([_speed(row) for row in rows]),
        "reply_tokens": {"mean": sum(lengths) / len(lengths), "shortest": lengths[0], "longest": lengths[-1]},
        "start_bytes": max(row["start_bytes"] for row in rows), "peak_bytes": max(row["peak_bytes"] for row in rows),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="+", choices=TASKS)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the choice of prompts")
    given = parser.parse_args()
    logging.set_verbosity_error()
    settings = {"prompts": PROMPTS, "max_new_tokens": NEW, "model": SIZES, **vars(given)}
    results: dict[str, Row] = {}
    for task in given.tasks:
        work = TASKS[task](given.seed)
        lengths = sorted(len(work[0].chat.prompt(prompt)) for prompt in work[1])
        prompts = {"mean": round(sum(lengths) / PROMPTS, 1), "shortest": lengths[0], "longest": lengths[-1]}
        facts = {"parameters": work[0].model.num_parameters(), "prompt_tokens": prompts}
        for kind, temperature in (("greedy", 0.0), ("sampled", 1.0)):
            say(f"{task}, {kind}: {facts}")
            sampling = Sampling(max_new_tokens=NEW[task], temperature=temperature)
            results[f"{TITLES[task]}, {kind}"] = compared(work, sampling, given.repetitions) | facts
    save("generation.json", settings, results)


if __name__ == "__main__":
    main()
