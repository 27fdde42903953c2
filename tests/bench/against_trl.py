"""align beside TRL's trainers, one thread, on real pairs: `python tests/bench/against_trl.py dpo reward sft`.

Needs hh-rlhf's test file under $ALIGN_DATA (default ../shared). A Llama of 1.85 M parameters from scratch, a BPE of
8,192 made from the data, 16 examples a step, rows of at most 1,024 tokens.

Every measurement is a process of its own, forked from one that has imported everything, so that memory starts equal.
Each of TRL's settings runs once on a few pairs; the two fastest and align then take turns on all, and the faster of the
two is what align is held against. TRL's packing is not among them: to keep texts apart it needs FlashAttention, which
no CPU has. All must report the same loss at every step, or there is nothing to compare. Seconds of the processor
decide, because neighbours count in those of the wall.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

from measuring import DATA, RESULTS, Row, alone, machine, say, spread
from sides import BATCH, BETA, CENTERING, LENGTH, OPTIM, TASKS, Setting, Work, measure
from transformers.utils import logging

from align.config import Data, Model
from align.data import load
from align.data.tokens import trees
from align.models.heads import load_reward
from align.models.policy import from_scratch
from align.models.tokenizers import train_tokenizer
from align.records import Preference

SIZES = {
    "architecture": "llama", "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True, "max_position_embeddings": LENGTH,
}  # fmt: skip
MICRO = (1, 2, 4, 16)
"""Of TRL, in examples."""
TOLERANCE = 1e-3
"""Of the loss of a step."""


def prepared(task: str, folder: Path, pairs: int, seed: int) -> tuple[Work, Row]:
    """The work, and what it is in numbers."""
    file = DATA / "data/hh-rlhf/test.jsonl.gz"
    records = load(Data(path=str(file), format="hh", on_bad_row="skip"), seed, Path.cwd())
    texts = [m.content for r in records if isinstance(r, Preference) for m in (*r.prompt, *r.chosen, *r.rejected)]
    policy = from_scratch(SIZES, train_tokenizer(texts, "bpe", 8192), template="plain", seed=seed)
    made, account = trees(records, policy.chat, LENGTH)
    chosen = random.Random(seed).sample(made, pairs)
    if task == "sft":
        chosen = [replace(tree, replies=tree.replies[:1], numbers={}) for tree in chosen]
    policy.save(folder / "policy", "bench")
    place = folder / "policy/model"
    if task == "reward":
        scorer = load_reward(Model(path=str(place), template="plain"), train=True)
        place = folder / "reward"
        scorer.model.save_pretrained(place)
        scorer.tokenizer.save_pretrained(place)
    facts = {
        "file": str(account), "pairs": pairs, "seed": seed, "parameters": policy.model.num_parameters(),
        "prompt_tokens": round(sum(len(tree.prompt) for tree in chosen) / pairs, 1),
        "reply_tokens": round(sum(len(reply.ids) for tree in chosen for reply in tree.replies) / pairs, 1),
    }  # fmt: skip
    return Work(task, place, chosen), facts


def measured(work: Work, setting: Setting) -> Row:
    row = alone(measure, work, setting)
    say(f"  {setting}, {len(work.trees)} pairs: {row['cpu']:.1f} s of processor, {row['wall']:.1f} s in all")
    return row


def settings_of(task: str) -> Iterator[Setting]:
    """TRL's."""
    for precompute, micro in product((True, False) if task == "dpo" else (True,), MICRO):
        yield Setting("trl", micro, precompute)


def compared(work: Work, max_tokens: int, screen: int, repetitions: int) -> Row:
    """Times of both, and of all of TRL's settings."""
    ours, few = Setting("align", max_tokens), replace(work, trees=work.trees[:screen])
    tried = {setting: measured(few, setting) for setting in (ours, *settings_of(work.task))}
    theirs = sorted(list(tried)[1:], key=lambda setting: tried[setting]["cpu"])[:2]
    turns: dict[Setting, list[Row]] = {setting: [] for setting in (ours, *theirs)}
    for _ in range(repetitions):
        for setting, rows in turns.items():
            rows.append(measured(work, setting))
    best = min(theirs, key=lambda setting: median(row["cpu"] for row in turns[setting]))
    return {
        "align": figures(turns[ours]),
        "trl": {"setting": str(best), **figures(turns[best])},
        "times_faster": {clock: _ratio(turns[ours], turns[best], clock) for clock in ("cpu", "wall")},
        "loss": {"first": turns[ours][0]["losses"][0], "last": turns[ours][0]["losses"][-1]},
        "loss_difference": max(agreement(list(tried.values())), agreement([rows[0] for rows in turns.values()])),
        "turns": {str(setting): figures(rows) for setting, rows in turns.items()},
        "tried": {str(setting): figures([row]) for setting, row in tried.items()},
    }


def agreement(rows: Sequence[Row]) -> float:
    """The largest difference of any step's loss from that of the first row; too large a one ends the run."""
    worst = max(abs(a - b) for row in rows for a, b in zip(rows[0]["losses"], row["losses"], strict=True))
    if not worst <= TOLERANCE:
        raise SystemExit(f"not the same work: losses of a step differ by {worst:.1e}\n{[r['losses'] for r in rows]}")
    return worst


def _ratio(ours: list[Row], theirs: list[Row], clock: str) -> list[float]:
    """Median, lowest and highest of how many times longer TRL took, turn by turn."""
    return spread([b[clock] / a[clock] for a, b in zip(ours, theirs, strict=True)], 2)


def figures(rows: list[Row]) -> Row:
    """Milliseconds a pair (median, lowest, highest), and memory in MB."""
    found: Row = {f"{clock}_ms": spread([1000 * r[clock] / r["pairs"] for r in rows], 1) for clock in ("cpu", "wall")}
    start, peak = (max(row[name] for row in rows) for name in ("start_mb", "peak_mb"))
    return found | {"start_mb": round(start), "peak_mb": round(peak)}


def table(results: dict[str, Row]) -> str:
    """Markdown."""
    head = "| | align, ms a pair | TRL at its fastest, ms a pair | times faster | by the wall | peak memory, MB |"
    return "\n".join([head, "|---|---|---|---|---|---|", *(_line(task, row) for task, row in results.items())])


def _line(task: str, result: Row) -> str:
    ours, theirs = result["align"], result["trl"]
    cells = [
        task,
        "{} [{}, {}]".format(*ours["cpu_ms"]),
        "{} [{}, {}], {}".format(*theirs["cpu_ms"], theirs["setting"].removeprefix("TRL, ")),
        "**{}** [{}, {}]".format(*result["times_faster"]["cpu"]),
        "{} [{}, {}]".format(*result["times_faster"]["wall"]),
        f"{ours['peak_mb']} to {theirs['peak_mb']} ({ours['start_mb']} before)",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="+", choices=TASKS)
    parser.add_argument("--pairs", type=int, default=128, help="a multiple of 16")
    parser.add_argument("--screen", type=int, default=32, help="pairs on which TRL's settings are tried, likewise")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=1024, help="of align's micro-batches")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the choice of pairs")
    given = parser.parse_args()
    if given.pairs % BATCH or given.screen % BATCH or not 0 < given.screen <= given.pairs:
        parser.error(f"--pairs and --screen must be multiples of {BATCH}, and --screen no larger")
    logging.set_verbosity_error()
    RESULTS.mkdir(parents=True, exist_ok=True)
    settings = {
        "model": SIZES, "dtype": "float32", "batch_size": BATCH, "max_length": LENGTH, "beta": BETA,
        "centering": CENTERING, "optim": OPTIM.model_dump(), **vars(given),
    }  # fmt: skip
    say(json.dumps(machine() | settings))
    results = {}
    for task in given.tasks:
        with tempfile.TemporaryDirectory() as folder:
            work, facts = prepared(task, Path(folder), given.pairs, given.seed)
            say(f"{task}: {facts}")
            results[task] = compared(work, given.max_tokens, given.screen, given.repetitions)
        saved = machine() | {"settings": settings, "data": facts} | results[task]
        (RESULTS / f"{task}.json").write_text(json.dumps(saved, indent=1) + "\n")
        say(f"  losses of every step agree within {results[task]['loss_difference']:.1e}")
    say(f"\n{table(results)}")


if __name__ == "__main__":
    main()
