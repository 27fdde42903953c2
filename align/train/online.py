"""The loop of training on one's own replies: play, assign credit, learn, again.

Everything is a function of (seed, step) and the weights: a run that was stopped, between steps or within one, goes on
from the last complete step and ends with the bits of one that was not. A step that was cut short while replies were
drawn has changed nothing and is played again; one that learns is finished first.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from align.data import write
from align.data.tree import Reply, Tree, collate
from align.errors import Interrupted, TrainingError
from align.generate.base import Progress
from align.losses.divergence import adapted
from align.records import Prompt
from align.stage import Context
from align.train import checkpoint as checkpoints
from align.train import readings
from align.train.credit import Credit, Moments
from align.train.fit import rows_of
from align.train.hacking import Watch
from align.train.learner import Learner
from align.train.objectives import Objective, demonstrated
from align.train.online_fields import Online
from align.train.pace import Clock
from align.train.rollout import Player, Turn, tokens

ON_POLICY = {"float32": 1e-3, "bfloat16": 0.5}
"""Largest |ratio - 1| before the first update: other micro-batches round otherwise."""
REFERENCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Largest mean |log-ratio| to the reference before the first update, in nats a token."""
SHOWN = 8
"""Prompts whose replies are kept in words."""


@dataclass
class Loop:
    """One run of an online stage. `state` is what a checkpoint keeps beside weights and optimizer, as JSON."""

    ctx: Context
    stage: Online
    learner: Learner
    player: Player
    credit: Credit
    objective: Callable[[float, float | None], Objective]
    """The objective at a coefficient of KL; and, before the first update, at a largest |ratio - 1|."""
    prompts: Sequence[Prompt]
    held_out: Sequence[Prompt]
    demonstrations: Sequence[Tree] = ()
    """What `ptx` learns from."""
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Complete steps."""
        return self.learner.step // self.stage.updates_per_step

    def run(self) -> dict[str, float]:
        """Plays and learns until the last step, and returns final metrics.

        Raises Interrupted, with all that is complete saved, when `ctx.stopping()`.
        """
        new = {"coefficient": self.stage.kl.coefficient, "scores": vars(Moments()), "before": None, "last": {}}
        self.state = checkpoints.load(self._folder, self.learner) or new | {"stopped": []}
        if self.step:
            self.ctx.note(f"going on after step {self.step} of {self.stage.steps}")
        elif self.held_out:
            self.state["before"] = self._examine()
            self._trust()
        clock = Clock(self.learner, self.stage)
        while self.step < self.stage.steps and not self.state["stopped"]:
            self._advance(clock)
            if self.step == self.stage.steps or self.state["stopped"]:
                break
            stop = self.learner.any_rank(bool(self.ctx.stopping()))
            if stop or clock.save_due():
                self._save()
            if stop:
                raise Interrupted(signal.SIGINT, f"stopped after step {self.step} of {self.stage.steps}; it is saved")
        return self._result()

    def _advance(self, clock: Clock) -> None:
        """One step, from its prompts to its event."""
        begun = time.monotonic()
        turns = self._play(self._chosen(), self.ctx.seed_of("rollout", self.step), self.stage.sampling.n, "rollout")
        played = time.monotonic()
        if self.step == 0:
            self._check_reference(turns)
        coefficient = self.state["coefficient"]
        scores = self._normalized(np.array([t.scores for t in turns]))
        trees = self.credit.assign([t.tree for t in turns], scores, coefficient)
        if self.step == 0:
            self._rehearse(coefficient, trees[0])
        metrics = readings.of_turns(turns) | readings.of_credit(trees) | {"kl_coefficient": coefficient}
        metrics |= self._learn(trees, coefficient)
        if self.stage.kl.target:
            self.state["coefficient"] = adapted(coefficient, metrics["kl"], self.stage.kl.target)
        self.state["last"] = metrics
        step, speed = self.step, clock.read(turns, played - begun, time.monotonic() - played)
        self._keep_samples(turns)
        every = self.stage.held_out.every if self.stage.held_out else None
        if every and step % every == 0 and step < self.stage.steps:
            metrics = metrics | self._halfway()
        self.ctx.emit("step", step=step, steps=self.stage.steps, **metrics, **speed)
        self.learner.track(metrics)

    def _chosen(self) -> list[Prompt]:
        """The prompts of this step: each pass over all of them in its own order, cut into whole steps."""
        size = self.stage.prompts_per_step
        turn, place = divmod(self.step, len(self.prompts) // size)
        order = np.random.default_rng([self.ctx.seed_of("order"), turn]).permutation(len(self.prompts))
        return [self.prompts[i] for i in order[place * size : (place + 1) * size]]

    def _learn(self, trees: Sequence[Tree], coefficient: float) -> dict[str, float]:
        """The updates of one step, and their mean metrics."""
        stage, learner, step = self.stage, self.learner, self.step
        tolerance: float | None = ON_POLICY[self.player.policy.contract.dtype]
        made: list[dict[str, float]] = []
        for rows in self._minibatches(trees, step):
            if self._teaches_nothing(rows):
                continue
            made.append(learner.update(self.objective(coefficient, tolerance), rows, self._beside(rows)))
            tolerance = None
            if stage.stop_kl and made[-1]["approx_kl"] > stage.stop_kl:
                break
        if not made:
            self.ctx.note(f"step {step + 1}: all replies did equally well; nothing to learn from")
        learner.step = (step + 1) * stage.updates_per_step  # also where some updates were left out
        means = {name: float(np.mean([m[name] for m in made])) for name in (made[0] if made else ())}
        return means | {"updates": float(len(made))}

    def _normalized(self, scores: np.ndarray) -> np.ndarray:
        """The scores as they are learned from; keeps the running mean and variance."""
        if not self.stage.normalize_rewards:
            return scores
        moments = Moments(**self.state["scores"]).joined(scores)
        self.state["scores"] = vars(moments)
        return moments.normal(scores)

    def _beside(self, rows: Sequence[Tree]) -> tuple[Objective, list[Tree]] | None:
        """The demonstrations of the next update, their sum weighed so that means, not sums, stand in proportion."""
        if self.stage.ptx is None:
            return None
        seed, size = self.ctx.seed_of("demonstrations"), self.stage.optim.batch_size
        shown = [self.demonstrations[i] for i in rows_of(self.learner.step, len(self.demonstrations), size, seed)]
        return demonstrated(self.stage.ptx.coefficient * _scored(rows) / _scored(shown)), shown

    def _minibatches(self, trees: Sequence[Tree], step: int):
        size = self.stage.optim.batch_size
        for epoch in range(self.stage.epochs):
            order = np.random.default_rng([self.ctx.seed_of("minibatches"), step, epoch]).permutation(len(trees))
            for start in range(0, len(trees), size):
                yield [trees[i] for i in order[start : start + size]]

    def _teaches_nothing(self, rows: Sequence[Tree]) -> bool:
        """Whether the gradient is 0: a step of the optimizer would only carry old momentum on."""
        stage = self.stage
        if self.credit.advantage == "gae" or stage.kl.where == "loss" or stage.entropy or stage.ptx:
            return False
        return not tokens(rows, "advantage").any()

    def _play(self, prompts: Sequence[Prompt], seed: int, n: int, what: str, stops: bool = True) -> list[Turn]:
        return self.player.play(prompts, seed, n, self._progress(what, stops))

    def _examine(self, stops: bool = True) -> readings.Examined:
        """The held-out prompts, answered once each from the same random streams whatever the step."""
        return readings.examined(self._play(self.held_out, self.ctx.seed_of("held out"), 1, "held-out prompts", stops))

    def _progress(self, what: str, stops: bool) -> Progress:
        """Tells people how far it is; with `stops` stops where a signal asked to, if no other rank waits for this
        one."""
        stops = stops and self.learner.accelerator.num_processes == 1

        def tell(done: int, total: int) -> None:
            self.ctx.emit("progress", what=what, done=done, total=total)
            if stops and self.ctx.stopping():
                self._save()
                raise Interrupted(signal.SIGINT, f"stopped in {what} after step {self.step} of {self.stage.steps}")

        return tell

    def _check_reference(self, turns: Sequence[Turn]) -> None:
        """Raises TrainingError unless the policy that begins to train is its own reference."""
        trees = [turn.tree for turn in turns]
        error = float(np.abs(tokens(trees, "logp") - tokens(trees, "reference")).mean())
        tolerance = REFERENCE[self.player.policy.contract.dtype]
        if not error <= tolerance:
            raise TrainingError(
                f"the reference is not the policy that begins to train: sampled tokens differ by {error:.2g} nats "
                f"(tolerance {tolerance:g})"
            )

    def _rehearse(self, coefficient: float, like: Tree) -> None:
        self.learner.rehearse(self.objective(coefficient, None), self._longest(like))
        if self.stage.ptx:
            longest = sorted(self.demonstrations, key=Tree.length, reverse=True)[: self.stage.optim.batch_size]
            self.learner.rehearse(demonstrated(1.0), longest)

    def _longest(self, like: Tree) -> list[Tree]:
        """The longest rows that one update can have, for a rehearsal: the longest prompts with full replies."""
        chat, limit = self.player.policy.chat, self.stage.sampling.max_new_tokens
        ids = sorted((chat.prompt(prompt.prompt) for prompt in self.prompts), key=len, reverse=True)
        numbers = {name: np.zeros(limit, np.float32) for name in like.replies[0].numbers}
        reply = Reply(np.full(limit, self.player.policy.contract.stop[0], np.int32), numbers=numbers)
        replies = (reply,) * self.stage.sampling.n
        longest = ids[: self.stage.optim.batch_size]
        return [Tree(f"{i:06d}", np.array(prompt, np.int32), replies) for i, prompt in enumerate(longest)]

    def _keep_samples(self, turns: Sequence[Turn]) -> None:
        """Every so many steps: some replies in a file, and one for whoever watches."""
        if (self.step % self.stage.show == 0 or self.step == 1) and self.learner.accelerator.is_main_process:
            first = turns[0]
            self.ctx.emit(
                "sample", step=self.step, prompt=first.prompt.prompt[-1].content, reply=first.completions[0].text,
                reward=first.scores[0],
            )  # fmt: skip
            folder = self.ctx.work / "samples"
            folder.mkdir(parents=True, exist_ok=True)
            samples = [s for turn in turns[:SHOWN] for s in turn.samples(f"step {self.step}")]
            write(samples, folder / f"step-{self.step:06d}.jsonl")

    def _save(self) -> None:
        if self.learner.step:  # before the first update there is nothing that would not come out again
            self.state["anchor"] = self.state.get("trusted")
            checkpoints.save(self._folder, self.learner, self.state, self.stage.checkpoint.keep)
            self.ctx.saved()

    def _result(self) -> dict[str, float]:
        """Final metrics; leaves the samples and the account of the held-out prompts in the artifact."""
        ctx = self.ctx
        result = {k: v for k, v in self.state["last"].items() if k not in ("lr", "grad_norm", "loss")}
        account = None
        if self.held_out:
            account, signs = self._verdict()
            result |= _summary(account) | {"hacked": float(bool(signs))}
            account["verdict"] = {"hacked": bool(signs), "signs": signs, "steps": self.step}
            gain = account["reward"]["difference"]
            ctx.note(
                f"held-out reward {account['reward']['before']['value']:.3g} -> "
                f"{account['reward']['after']['value']:.3g}: {gain['difference']:+.3g} [{gain['low']:.3g}, "
                f"{gain['high']:.3g}] on {len(self.held_out)} prompts at a KL of "
                f"{account['kl']['after']['value']:.3g} nats a token"
            )
        if self.learner.accelerator.is_main_process:
            if (ctx.work / "samples").is_dir():
                shutil.copytree(ctx.work / "samples", ctx.out / "samples", dirs_exist_ok=True)
            if account:
                (ctx.out / "held_out.json").write_text(json.dumps(account, indent=1) + "\n")
            self.player.policy.save(ctx.out, ctx.stage)
        return result | {"steps": float(self.step)}

    def _verdict(self) -> tuple[dict[str, Any], list[str]]:
        """The account of the held-out prompts and the signs that the reward was hacked, after the last step or, where
        those say so and the stage is to stop then, after going back."""
        after = self._examine()
        account = self._account(after)
        if self.state["stopped"] or not (signs := self._signs(account, after)):
            return account, self.state["stopped"]
        if self.stage.hacking.then == "stop":
            self._go_back(signs)
            return self._verdict()
        self.ctx.note(f"the reward rose, but {'; '.join(signs)}", "warning")
        return account, signs

    def _account(self, after: readings.Examined) -> dict[str, Any]:
        ids = [prompt.id for prompt in self.held_out]
        return readings.compared(ids, self.state["before"], after, self.ctx.seed_of("bootstrap"))

    def _signs(self, account: dict[str, Any], after: readings.Examined) -> list[str]:
        watched = [part.reward for part in self.player.rewards if not part.weight]
        return Watch(self.stage.hacking, watched).signs(account, after)

    def _halfway(self) -> dict[str, float]:
        """What held-out prompts say between the first step and the last; where they say that the reward was hacked and
        the stage is to stop then, goes back. Part of the step, so a signal waits: a checkpoint knows the verdict."""
        after = self._examine(stops=False)
        account = self._account(after)
        if self.stage.hacking.then == "stop":
            if signs := self._signs(account, after):
                self._go_back(signs)
            else:
                self._trust()
        return _summary(account)

    def _trust(self) -> None:
        """Keeps the weights as the last that no sign spoke against, beside those that the newest checkpoint knows as
        such, which a run may go on from."""
        if self.stage.hacking.then == "stop":
            self.state["trusted"] = self.learner.step
            if self.learner.accelerator.is_main_process:
                checkpoints.keep_weights(self._trusted("trusted"), self.learner)
                for old in {*self.ctx.work.glob("trusted-*.pt")} - {self._trusted("trusted"), self._trusted("anchor")}:
                    old.unlink()

    def _go_back(self, signs: list[str]) -> None:
        """Ends training with the weights of the examination before."""
        self.ctx.note(f"step {self.step}: the reward rose, but {'; '.join(signs)}; training ends", "warning")
        self.learner.accelerator.wait_for_everyone()
        checkpoints.restore_weights(self._trusted("trusted"), self.learner)
        self.learner.step = self.state["trusted"]
        self.state["stopped"] = signs

    def _trusted(self, name: str) -> Path:
        """The weights of the step that the state has under a name."""
        return self.ctx.work / f"trusted-{self.state.get(name) or 0:08d}.pt"

    @property
    def _folder(self) -> Path:
        return self.ctx.work / "checkpoints"


def _summary(account: dict[str, Any]) -> dict[str, float]:
    """An account of held-out prompts as metrics: the values, and of the reward the intervals too."""
    made = {f"held_out_{name}": found["after"]["value"] for name, found in account.items()}
    gain, after = account["reward"]["difference"], account["reward"]["after"]
    return made | {
        "held_out_reward_before": account["reward"]["before"]["value"],
        "held_out_reward_low": after["low"], "held_out_reward_high": after["high"],
        "held_out_gain": gain["difference"], "held_out_gain_low": gain["low"], "held_out_gain_high": gain["high"],
    }  # fmt: skip


def _scored(trees: Sequence[Tree]) -> int:
    """How many tokens of these trees carry loss."""
    return len(collate(trees).target)
