"""One stage's work, done and timed in this process: the engine's own code, without reading data and saving models."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from align.bench import arithmetic, reinforcement, trl, workload
from align.bench.arithmetic import Lengths, Row, Shape
from align.bench.clock import Clock, breakdown, matrix_rate, name_of, peak_bytes
from align.bench.constitutional import ROOM, judge, principles, revise
from align.bench.workload import words
from align.config import Model, Optim, Sampling
from align.constitution import Principle
from align.data.tree import Tree
from align.generate.base import Generator
from align.generate.load import generator_of
from align.machine import Machine
from align.models.heads import Reward, load_reward
from align.models.logprobs import LanguageModel
from align.models.policy import Policy, from_scratch, load_policy
from align.records import Message, Messages, Prompt
from align.rewards.model import TrainedReward
from align.stage import Context
from align.stages.dpo import DPO
from align.stages.pretrain import Pretrain
from align.stages.reward_model import RewardModel
from align.stages.sft import SFT
from align.store import Store
from align.train.batching import token_budget
from align.train.fit import rows_of
from align.train.objectives import bradley_terry, direct_preference, next_token
from align.train.session import Session, device_of

BETA, CENTERING = 0.1, 0.01


@dataclass(frozen=True)
class Order:
    """What to measure."""

    task: str
    shape: str
    lengths: tuple[Lengths, ...]
    machine: Machine
    seed: int = 0
    dtype: str = "float32"
    batch: int = 16
    """Rows of an optimizer step."""
    rival: trl.Setting | None = None
    """Not ours: TRL's trainer, in this setting."""

    @property
    def optim(self) -> Optim:
        return Optim(lr=1e-4, batch_size=self.batch, schedule="constant", warmup=0.0)


@dataclass(frozen=True)
class Reading:
    """What a task took."""

    task: str
    device: str
    """The processor or GPU, by its name."""
    examples: int
    tokens: int
    """Of prompts, once each, and of replies."""
    cpu: float
    wall: float
    seconds: float
    """Those that count."""
    useful: int
    """The fewest operations that the mathematics needs."""
    rate: float
    """Operations a second of matrix products, measured in the same process."""
    peak_bytes: int
    parts: dict[str, float]
    """Share of each part in the seconds of a profiled run."""
    usual: float | None = None
    """Operations by the field's usual formula, where the task is plain training."""
    losses: tuple[float, ...] = ()
    phases: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Where a task has several: the seconds and the useful operations of each."""

    @property
    def utilisation(self) -> float:
        """The share of the matrix rate that went into operations that the mathematics needs."""
        return self.useful / (self.seconds * self.rate)

    @property
    def mfu(self) -> float | None:
        """The same by the field's usual formula, for comparison with others."""
        return self.usual / (self.seconds * self.rate) if self.usual else None


TRAINING = ("pretrain", "sft", "reward_model", "dpo")


def measure(order: Order) -> Reading:
    """Does the work in this process, which must be a fresh one if its memory is to be known."""
    if order.machine.threads:
        torch.set_num_threads(order.machine.threads)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(order, Path(folder))
        trees = bench.trees()
        # A first turn pays for what torch does once; compiled layers may ask for a graph for each number of rows.
        bench.work(trees if order.machine.compile else trees[: order.batch])
        bench.forget()
        rows = bench.work(trees)
        clock, losses, phases, peak = bench.clock, tuple(bench.losses), bench.phases, peak_bytes(bench.device)
        rate = matrix_rate(bench.device, getattr(torch, order.dtype))
        bench.forget()  # what is profiled takes longer and counts for nothing else
        parts = (
            breakdown(lambda: bench.work(trees[: 2 * order.batch]), bench.shape.vocabulary) if not order.rival else {}
        )
    tokens = sum(row.tokens for row in rows)
    plain = order.task in ("pretrain", "sft")
    needed = sum(n for _, n in phases.values()) if phases else arithmetic.useful(order.task, bench.shape, rows)
    usual = arithmetic.usual(bench.parameters, bench.shape, tokens, tokens / len(rows)) if plain else None
    return Reading(
        order.task, name_of(bench.device), len(rows), tokens, clock.cpu, clock.wall, clock.seconds, needed, rate, peak,
        parts, usual, losses, phases,
    )  # fmt: skip


class Bench:
    """A task about to be done: a model saved in a folder, rows, and a context to do it in."""

    def __init__(self, order: Order, folder: Path):
        self.order, self.folder = order, folder
        self.sizes = workload.SHAPES[order.shape]
        self.device = device_of(order.machine)
        self.clock = Clock(self.device)
        self.losses: list[float] = []
        self.phases: dict[str, tuple[float, int]] = {}
        made = from_scratch(self.sizes, workload.tokenizer(self.sizes["vocab_size"]), template="plain", seed=order.seed)
        self.shape = Shape.of(made.model)
        self.parameters = made.model.num_parameters()
        made.save(folder / "policy", "bench")

    @property
    def source(self) -> Model:
        """The model as one from outside."""
        return Model(path=str(self.folder / "policy/model"), template="plain", dtype=self.order.dtype)  # type: ignore[arg-type]

    def trees(self) -> list[Tree]:
        """The rows as the task reads them: texts for pretrain, one reply for sft, else two."""
        lengths, task = self.order.lengths, self.order.task
        if task == "pretrain":
            lengths = [Lengths(0, (row.tokens,)) for row in lengths]
        return workload.trees(lengths, self.sizes, self.order.seed, 1 if task in ("pretrain", "sft") else 2)

    def forget(self) -> None:
        """Starts the clock and the list of losses anew."""
        self.clock, self.losses = Clock(self.device), []

    def context(self, name: str) -> Context:
        def emit(event: str, **values: Any) -> None:
            if event == "step" and "loss" in values:
                self.losses.append(values["loss"])

        place = Path(tempfile.mkdtemp(dir=self.folder))
        (place / "work").mkdir()
        (place / "out").mkdir()
        return Context(
            "bench", name, "bench", self.order.seed, inputs={}, keys={}, store=Store(place / "store"),
            machine=self.order.machine, work=place / "work", out=place / "out", emit=emit,
        )  # fmt: skip

    def work(self, trees: Sequence[Tree]) -> Sequence[Row]:
        """The task, timed; the rows that came of it."""
        if self.order.rival:
            return self.rival(trees, self.order.rival)
        if self.order.task in TRAINING:
            return self.train(trees)
        ways = {
            "ppo": self.reinforce, "critique_revise": self.revise, "ai_feedback": self.judge, "sample": self.sample,
            "compare": self.score,
        }  # fmt: skip
        return ways[self.order.task](trees)

    def reinforce(self, trees: Sequence[Tree]) -> list[Lengths]:
        """PPO on the prompts, 64 tokens a reply."""
        given = reinforcement.inputs(self.source, self.folder, self._prompts(trees))
        stage = reinforcement.stage_of(len(trees), self.order.batch)
        ctx = replace(self.context("ppo"), inputs=given, keys={name: name for name in given})
        rows, self.phases = reinforcement.reinforce(ctx, stage, self.shape, self.clock)
        return rows

    def rival(self, trees: Sequence[Tree], setting: trl.Setting) -> list[Lengths]:
        """The same training by TRL."""
        folder = self.folder / "policy/model"
        if self.order.task == "reward_model":
            folder = self.folder / "scorer"
            scorer = load_reward(self.source, train=True)
            scorer.model.save_pretrained(folder)
            scorer.tokenizer.save_pretrained(folder)
        trial = trl.Trial(
            self.order.task, folder, trees, self.order.optim, self.sizes["max_position_embeddings"], BETA, CENTERING,
            self.order.dtype,
        )  # fmt: skip
        self.losses += trl.train(trial, setting, self.clock)
        return workload.lengths_of(trees)

    def train(self, trees: Sequence[Tree]) -> list[Lengths]:
        """A session of the stage of the task's name: reference log-probs, the loop, its rehearsal."""
        task, ctx = self.order.task, self.context(self.order.task)
        fields = {"policy": "$policy", "data": "$rows", "optim": self.order.optim}
        if task == "reward_model":
            loaded: Policy | Reward = load_reward(self.source, train=True, device=str(self.device))
            stage, objective, module = RewardModel(**fields), bradley_terry(CENTERING), loaded.module
        else:
            loaded = load_policy(self.source, train=True, device=str(self.device))
            module = LanguageModel(loaded.model)
            stage = {"sft": SFT, "pretrain": Pretrain, "dpo": DPO}[task](**fields)
            objective = direct_preference("sigmoid", BETA) if task == "dpo" else next_token
        rows = _before_shuffling(trees, self.order.batch, ctx.seed_of("order"))
        session = Session.over(ctx, stage, loaded, rows)
        with self.clock.running():
            if isinstance(loaded, Policy) and task == "dpo":
                session = session.with_reference(loaded, "bench")
            session.train(module, objective)
        return workload.lengths_of(trees)

    def revise(self, trees: Sequence[Tree]) -> Sequence[Row]:
        """A critique of a reply to every prompt, and a revision, of at most 64 tokens each."""
        asked = self._prompts(trees, lambda tree: ROOM)
        prompts = [Prompt(tree.id, prompt) for tree, prompt in zip(trees, asked, strict=True)]
        rows, self.phases = revise(self._writer(keep=True), prompts, *self._asking())
        return rows

    def judge(self, trees: Sequence[Tree]) -> Sequence[Row]:
        """Which of two replies is better, by four principles and in both orders."""
        asked = self._prompts(trees, lambda tree: ROOM + sum(len(reply.ids) for reply in tree.replies))
        said = [[words(reply.ids) for reply in tree.replies] for tree in trees]
        pairs = [(prompt, first, second) for prompt, (first, second) in zip(asked, said, strict=True)]
        rows, self.phases = judge(self._writer(ends=False), pairs, *self._asking())
        return rows

    def sample(self, trees: Sequence[Tree]) -> list[Lengths]:
        """Two replies to every prompt, of at most 64 tokens."""
        generator = self._writer()
        with self.clock.running():
            made = generator.generate(self._prompts(trees), Sampling(n=2, max_new_tokens=64), self.order.seed)
        replies = [tuple(len(c.ids) for c in made[i : i + 2]) for i in range(0, len(made), 2)]
        asked = [generator.policy.chat.prompt(prompt) for prompt in self._prompts(trees)]  # type: ignore[attr-defined]
        return [Lengths(len(prompt), n) for prompt, n in zip(asked, replies, strict=True)]

    def score(self, trees: Sequence[Tree]) -> list[Lengths]:
        """Scores of all replies by a reward model, which reads them as text."""
        reward = load_reward(self.source, train=True, device=str(self.device))
        scorer = TrainedReward(reward, "bench", token_budget(self.order.machine, self.device), print)
        asked = [Prompt(tree.id, prompt) for tree, prompt in zip(trees, self._prompts(trees), strict=True)]
        prompts = [prompt for prompt in asked for _ in range(2)]
        replies = [words(reply.ids) for tree in trees for reply in tree.replies]
        with self.clock.running():
            scorer(prompts, replies)
        return workload.lengths_of(trees)

    def _prompts(self, trees: Sequence[Tree], leave: Callable[[Tree], int] = lambda tree: 0) -> list[Messages]:
        """The trees' prompts as conversations. leave: tokens of the context for what follows."""
        room = [self.sizes["max_position_embeddings"] - leave(tree) for tree in trees]
        return [(Message("user", words(tree.prompt[:n])),) for tree, n in zip(trees, room, strict=True)]

    def _writer(self, ends: bool = True, keep: bool = False) -> Generator:
        """The policy as a generator. ends: its replies end by chance, after some forty tokens."""
        policy, vocabulary = load_policy(self.source, device=str(self.device)), self.sizes["vocab_size"]
        if ends:
            stops = tuple(range(vocabulary - vocabulary // 40, vocabulary))  # random weights choose any token alike
            policy = replace(policy, contract=policy.contract.model_copy(update={"stop": stops}))
        return generator_of(policy, self.order.machine, keep)

    def _asking(self) -> tuple[list[Principle], Shape, Clock, int]:
        return principles(self.sizes["vocab_size"], self.order.seed), self.shape, self.clock, self.order.seed


def _before_shuffling(trees: Sequence[Tree], size: int, seed: int) -> list[Tree]:
    """The trees so that the loop, which has an order of its own, comes to them in the order given."""
    order = [row for step in range(len(trees) // size) for row in rows_of(step, len(trees), size, seed)]
    return [tree for _, tree in sorted(zip(order, trees, strict=True), key=lambda pair: pair[0])]
