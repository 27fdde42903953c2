"""Critique and revision beside the plain way, in one run: `python tests/bench/revising.py`.

Plain: every request is a prompt of its own, read from its beginning, and `model.generate` writes the answers, as many
side by side as ours. Ours: a critique goes on from the reply and a revision from the critique, the examples that stand
before all prompts are computed once, and finished rows leave the batch.

What that can gain is bounded by the tokens that both have to compute: those that are written, and those of the
requests. So tokens are counted, padding included, beside the time. They are 4.9 to 5.8 times fewer with examples, as
constitutions have them, 3.1 times where long conversations are answered without, and 1.8 times after single questions
without, where three times the speed is out of reach.

Needs what README.md describes under $ALIGN_DATA (default ../shared). Weights are random, for no answer is looked at;
sizes are such that computing, not Python, is the work. Both run in turn; seconds of the processor decide.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from measuring import DATA, Row, device, ratio, save, say, spread

from align.config import Model, Sampling
from align.constitution import find
from align.generate.base import Completion, Progress
from align.generate.critique import Reviser
from align.generate.hf import HFGenerator
from align.models.policy import from_scratch, load_policy
from align.records import Message, Messages, Prompt

BATCH = 16
SIZES = {
    "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 8,
    "max_position_embeddings": 2048,
}  # fmt: skip
CASES = [("question", 2, 1, 32), ("question", 2, 2, 32), ("conversation", 0, 1, 32), ("question", 0, 1, 32)]
"""What is answered, examples before it, revisions, most new tokens of each answer."""
CONVERSATION = (1000, 2000)
"""Characters of one."""
REPETITIONS = 2


class Plain(HFGenerator):
    """`model.generate`, each request on its own, in batches of the size of ours."""

    def generate(
        self, prompts: Sequence[Messages], sampling: Sampling, seed: int, progress: Progress | None = None
    ) -> list[Completion]:
        torch.manual_seed(seed)
        made = []
        for begin in range(0, len(prompts), self.batch):
            rows = [self.policy.chat.prompt(prompt) for prompt in prompts[begin : begin + self.batch]]
            made += [self._completion(begin + i, ids) for i, ids in enumerate(self._written(rows, sampling))]
        return made

    def _written(self, rows: list[list[int]], sampling: Sampling) -> list[list[int]]:
        contract, width = self.policy.contract, max(map(len, rows))
        ids = torch.tensor([[contract.pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.no_grad():
            made = self.policy.model.generate(
                ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=sampling.max_new_tokens,
                eos_token_id=list(contract.stop), pad_token_id=contract.pad,
            )  # fmt: skip
        return made[:, width:].tolist()

    def _completion(self, prompt: int, ids: list[int]) -> Completion:
        stop = next((i for i, token in enumerate(ids) if token in self.policy.contract.stop), len(ids))
        return Completion(prompt, 0, self.policy.chat.text(ids[:stop]), tuple(ids), (), "stop")


def questions() -> list[Prompt]:
    """Of XSTest."""
    with (DATA / "data/xstest/xstest_prompts.csv").open(newline="") as lines:
        asked = [row["prompt"] for row in islice(csv.DictReader(lines), BATCH)]
    return [Prompt(str(i), (Message("user", text),)) for i, text in enumerate(asked)]


def conversations() -> list[Prompt]:
    """Of hh-rlhf, as they stood when the last reply was due."""
    made = []
    with gzip.open(DATA / "data/hh-rlhf/test.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            said = json.loads(line)["chosen"]
            parts = re.split(r"\n\n(Human|Assistant): ", said)[1:-2]
            roles = ["user" if name == "Human" else "assistant" for name in parts[::2]]
            if roles[-1:] == ["user"] and CONVERSATION[0] <= len(said) <= CONVERSATION[1]:
                turns = tuple(Message(role, text) for role, text in zip(roles, parts[1::2], strict=True) if text)
                made.append(Prompt(str(len(made)), turns))
            if len(made) == BATCH:
                break
    return made


ASKED = {"question": questions(), "conversation": conversations()}


def measured(generator: HFGenerator, kind: str, examples: int, revisions: int, limit: int) -> tuple[float, int]:
    """Seconds of the processor for all the transcripts, and the tokens that the model computed."""
    constitution = find("harmless")
    shown = tuple(turn for example in constitution.transcripts[:examples] for turn in example.turns())
    reviser = Reviser(
        generator, generator, constitution.principles, revisions, Sampling(max_new_tokens=limit), shown, 0,
        lambda done, total: None,
    )  # fmt: skip
    with counted(generator.policy.model) as tokens:
        begin = time.process_time()
        reviser(ASKED[kind])
        return time.process_time() - begin, sum(tokens)


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """Tokens of each forward pass within the block."""
    sizes: list[int] = []  # of what is embedded: a hook on the model would keep `align.models.decoder` from it
    hook = model.get_input_embeddings().register_forward_hook(lambda _, given, made: sizes.append(given[0].numel()))
    yield sizes
    hook.remove()


def main() -> None:
    torch.set_num_threads(1)
    tokenizer = load_policy(Model(path=str(DATA / "models/stories260K"), template="plain")).tokenizer
    policy = from_scratch({"architecture": "llama", **SIZES}, tokenizer, template="plain", seed=0)
    tasks: dict[str, Row] = {}
    for case in CASES:
        turns = [  # a generator each, for what one keeps would be there for the next
            [measured(side, *case) for side in (HFGenerator(policy, BATCH, keep=True), Plain(policy, BATCH))]
            for _ in range(REPETITIONS)
        ]
        say(f"{case}: seconds and tokens of ours and theirs {turns}")
        own, other = ([BATCH / seconds for seconds, _ in side] for side in zip(*turns, strict=True))
        tokens, more = (count for _, count in turns[0])
        kind, examples, revisions, limit = case
        plain = {"what": "`generate`", "setting": f"batch {BATCH}", "per_second": spread(other), "tokens": more}
        tasks[f"critique and revision of {kind}s, examples: {examples}, rounds: {revisions}"] = {
            "device": device(), "unit": "transcripts", "per_second": spread(own), "new_tokens": limit, "tokens": tokens,
            "beside": [plain | {"times_faster": ratio(own, other)}],
        }  # fmt: skip
    save("revising.json", {"model": SIZES, "batch": BATCH, "repetitions": REPETITIONS}, tasks)


if __name__ == "__main__":
    main()
