"""PPO beside TRL 1.12's, one thread: `python tests/bench/ppo_against_trl.py path/to/trl-1.12 hh stories`.

TRL removed PPO after 1.12. Its wheel is unpacked aside, and runs with the libraries of today:

    pip download trl==1.12.0 --no-deps && unzip trl-1.12.0-py3-none-any.whl -d trl-1.12

Needs what README.md describes under $ALIGN_DATA (default ../shared). `hh`: a Llama of 1.85 M parameters from scratch,
prompts of hh-rlhf as they come, of 10 to 850 tokens. `stories`: stories260K and the first eight words of stories.
Policy, critic, reward and reference are of one size. Every measurement is a process of its own. Each of TRL's settings
runs once on a few prompts; the fastest then takes turns with align on all. Seconds of the processor decide.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1] if len(sys.argv) > 1 else "")  # before the installed TRL is found

from measuring import DATA, Row, alone, device, ratio, save, say, spread
from ppo_sides import BATCH, CLIP, EPOCHS, KL, LAMBDA, LR, NEW, Setting, Work, measure, write_prompts
from transformers.utils import logging

from align.config import Data, Model
from align.data import load
from align.data.convert import prompt_of
from align.models.heads import load_reward
from align.models.policy import Policy, from_scratch, load_policy
from align.models.tokenizers import train_tokenizer
from align.records import Preference

SIZES = {
    "architecture": "llama", "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True, "max_position_embeddings": 1024,
}  # fmt: skip
LONGEST = 850
TRIED = {"hh": ((4, 16), (16, 16), (16, 64)), "stories": ((16, 64), (64, 64))}
"""TRL's settings: rows of a micro-batch while learning, and while sampling and scoring."""
OURS = {"reward": "a critic of its own", "shared": "a critic on the policy"}
TITLES = {"hh": "PPO on HH prompts", "stories": "PPO on 8 words, stories260K"}


def prepared(task: str, folder: Path, episodes: int, seed: int) -> tuple[Work, Row]:
    """The work, and what it is in numbers."""
    policy, prompts = (_hh if task == "hh" else _stories)(seed)
    policy.save(folder / "policy", "bench")
    reward = load_reward(Model(path=str(folder / "policy/model"), template=policy.contract.template), train=True)
    reward.save(folder / "reward", "bench")
    rows = [(policy.chat.prompt(prompt), prompt) for prompt in dict.fromkeys(prompts)]
    rows = random.Random(seed).sample([row for row in rows if len(row[0]) <= LONGEST], episodes)
    write_prompts(folder, [prompt for _, prompt in rows])
    lengths = sorted(len(ids) for ids, _ in rows)
    facts = {
        "episodes": episodes, "seed": seed, "parameters": policy.model.num_parameters(),
        "prompt_tokens": {"mean": round(sum(lengths) / episodes, 1), "shortest": lengths[0], "longest": lengths[-1]},
    }  # fmt: skip
    return Work(folder, tuple(ids for ids, _ in rows)), facts


def _hh(seed: int) -> tuple[Policy, list]:
    file = DATA / "data/hh-rlhf/test.jsonl.gz"
    records = load(Data(path=str(file), format="hh", on_bad_row="skip"), seed, Path.cwd())
    pairs = [record for record in records if isinstance(record, Preference)]
    texts = [m.content for r in pairs for m in (*r.prompt, *r.chosen, *r.rejected)]
    policy = from_scratch(SIZES, train_tokenizer(texts, "bpe", 8192), template="plain", seed=seed)
    return policy, [record.prompt for record in pairs]


def _stories(seed: int) -> tuple[Policy, list]:
    file = DATA / "data/tinystories-sample/tinystories_1000.json"
    records = load(Data(path=str(file), prompt_words=8), seed, Path.cwd())
    policy = load_policy(Model(path=str(DATA / "models/stories260K"), template="raw"), train=True)
    return policy, [prompt_of(record) for record in records]


def compared(task: str, work: Work, screen: int, repetitions: int, max_tokens: int) -> dict[str, Row]:
    """Episodes a second with each kind of critic, beside TRL at the fastest of its settings."""
    few = replace(work, ids=work.ids[:screen])
    settings = dict.fromkeys(Setting("trl", min(m, screen), min(r, screen)) for m, r in TRIED[task])
    tried = {setting: _measured(few, screen, setting) for setting in settings}
    best = min(tried, key=lambda setting: tried[setting]["cpu"])
    ours = [Setting("align", max_tokens, critic=critic) for critic in OURS]
    turns: dict[Setting, list[Row]] = {setting: [] for setting in (*ours, best)}
    for _ in range(repetitions):
        for setting, rows in turns.items():
            rows.append(_measured(work, BATCH, setting))
    theirs = {"what": "TRL at its fastest", "setting": str(best).removeprefix("TRL, "), **figures(turns[best])}
    return {
        f"{TITLES[task]}, {OURS[setting.critic]}": {
            "device": device(), **figures(turns[setting]),
            "beside": [theirs | {
                name: ratio([row[clock] for row in turns[best]], [row[clock] for row in turns[setting]])
                for name, clock in (("times_faster", "cpu"), ("times_faster_by_the_wall", "wall"))
            }],
            "tried": {str(other): figures([row]) for other, row in tried.items()},
        }
        for setting in ours
    }  # fmt: skip


def _measured(work: Work, batch: int, setting: Setting) -> Row:
    row = alone(measure, work, batch, setting)
    say(f"  {setting}, {row['episodes']} episodes: {row['cpu']:.1f} s of processor, {row['wall']:.1f} s in all")
    return row


def figures(rows: Sequence[Row]) -> Row:
    """Episodes a second of the processor and of the wall, tokens a reply, and memory."""
    cpu, wall = (spread([row["episodes"] / row[clock] for row in rows]) for clock in ("cpu", "wall"))
    start, most = (max(row[name] for row in rows) for name in ("start_bytes", "peak_bytes"))
    return {
        "unit": "episodes", "per_second": cpu, "per_wall_second": wall, "reply_tokens": round(rows[0]["tokens"], 1),
        "start_bytes": start, "peak_bytes": most,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("trl", help="folder of the unpacked wheel of TRL 1.12")
    parser.add_argument("tasks", nargs="+", choices=TRIED)
    parser.add_argument("--episodes", type=int, default=BATCH, help=f"a multiple of {BATCH}")
    parser.add_argument("--screen", type=int, default=32, help="episodes on which TRL's settings are tried, one step")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=1024, help="of align's micro-batches")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the choice of prompts")
    given = parser.parse_args()
    logging.set_verbosity_error()
    settings = {
        "model": SIZES, "batch_size": BATCH, "max_new_tokens": NEW, "epochs": EPOCHS, "kl": KL, "lambda": LAMBDA,
        "clip": CLIP, "lr": LR, **{name: value for name, value in vars(given).items() if name not in ("trl", "tasks")},
    }  # fmt: skip
    results: dict[str, Row] = {}
    for task in given.tasks:
        with tempfile.TemporaryDirectory() as folder:
            work, facts = prepared(task, Path(folder), given.episodes, given.seed)
            say(f"{task}: {facts}")
            found = compared(task, work, given.screen, given.repetitions, given.max_tokens)
            results |= {name: row | facts for name, row in found.items()}
    save("ppo.json", settings, results, trl="1.12.0")


if __name__ == "__main__":
    main()
