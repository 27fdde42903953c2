"""Runs a recipe: checks every stage first, then runs what is not in the store, and tells what happens as events.

An event is a dict with `event`, `time` (seconds since 1970) and, where it is about a stage, `stage`:

    run_started         recipe, stages {name: type}, store
    stage_cached        key, path, metrics: it was there, or another run just made it
    stage_checked       figures, pending (the input that is yet to be made, or null)
    stage_started
    step                step, steps, metrics of that step
    progress            what, done, total
    sample              step, prompt, reply, reward: what a policy says while it learns
    note                text, level
    saved               what was done so far outlives a kill
    stage_finished      key, path, metrics, seconds (with those of earlier runs whose work was saved)
    stage_failed        error, log (path or null)
    stage_skipped       because
    loop_decided        loop, round (0: what it began with), stopped, results {name: what it is}, text
    interrupted         the stage saved what it had
    report_written      path: the page about the recipe's last comparison
    run_finished        exit_code, failed, skipped, seconds

The first SIGINT or SIGTERM is passed on: the stage ends its step and saves. The second kills it; what it saved before
is still there.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from align.errors import Problem, RecipeError
from align.launch import Workers
from align.machine import Machine
from align.plan import Plan, Step, code_of, plan
from align.recipe import Recipe
from align.store import Artifact, Store
from align.worker.job import Input, Job

__all__ = ["Outcome", "Plan", "Step", "check", "plan", "run"]

Emit = Callable[[dict[str, Any]], None]
State = Literal["cached", "checked", "finished", "failed", "skipped", "interrupted"]


@dataclass
class Outcome:
    """How a run ended."""

    plan: Plan
    states: dict[str, State] = field(default_factory=dict)
    """By stage; one that was not reached has none."""
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each stage's check found."""
    report: Path | None = None
    """The page about the recipe's last comparison, if it has one that is there."""
    signal: int = 0
    """The signal that stopped the run, or 0."""

    @property
    def exit_code(self) -> int:
        return 128 + self.signal if self.signal else int(bool(self.errors))


def check(
    recipe: Recipe, store: Store, machine: Machine, *, until: str | None = None, only: str | None = None,
    fresh: Iterable[str] = (), emit: Emit = lambda event: None,
) -> Outcome:  # fmt: skip
    """Checks every stage that `run` would run, and that what they will write fits on the disk; computes nothing.

    What is wrong is in the outcome.
    """
    planned = partial(plan, recipe, store, until=until, only=only, fresh=tuple(fresh))
    with _Run(planned, store, machine, emit) as running:
        running.check()
    return running.outcome


def run(
    recipe: Recipe, store: Store, machine: Machine, *, until: str | None = None, only: str | None = None,
    fresh: Iterable[str] = (), emit: Emit = lambda event: None,
) -> Outcome:  # fmt: skip
    """Makes the artifacts of a recipe's stages, or of those asked for, as `plan` says.

    `fresh` stages, and those made from them, forget what a killed run left of them; their artifacts stay until new
    ones take their place, and a run that is stopped meanwhile goes on without `fresh`. Raises RecipeError where a
    stage cannot run at all; other failures are in the outcome.
    """
    planned = partial(plan, recipe, store, until=until, only=only, fresh=tuple(fresh))
    with _Run(planned, store, machine, emit) as running:
        running.begin()
        if running.check():
            running.run()
        running.finish()
    return running.outcome


class _Run:
    """The state of one run: its workers, its signals, and what became of each stage."""

    def __init__(self, planned: Callable[..., Plan], store: Store, machine: Machine, emit: Emit):
        self._planned, self.store, self.machine, self.outcome = planned, store, machine, Outcome(planned())
        self._emit_to = emit
        self._started = time.time()
        self._workers: list[Workers] = []
        self._pending: set[str] = set()
        self._told = False
        self._decided: set[str] = set()
        self._commit = _commit(self.plan.recipe.base)

    def __enter__(self) -> _Run:
        self._handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *error: object) -> None:
        for workers in self._workers:
            workers.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @property
    def plan(self) -> Plan:
        return self.outcome.plan

    def begin(self) -> None:
        recipe, steps = self.plan.recipe, self.plan.steps
        blocked = [Problem(f"stages.{s.stage}", s.why) for s in steps if s.state == "blocked"]
        if blocked:
            raise RecipeError(blocked)
        types = {step.stage: step.type for step in steps}
        self._emit("run_started", recipe=recipe.name, stages=types, store=str(self.store.root))
        for step in steps:
            if step.warning:
                self._emit("note", stage=step.stage, level="warning", text=step.warning)
        self._settle(steps)

    def _settle(self, steps: Iterable[Step]) -> None:
        """Remembers what the keys that are final are made of, and records what needs no work."""
        for step in steps:
            if step.state == "skipped":
                self._skip(step.stage, step.why)
            elif step.artifact:
                self._made(step.stage, "cached", step.artifact)
                self._emit("stage_cached", stage=step.stage, **_facts(step.artifact))
        final = [step.stage for step in steps if step.state not in ("skipped", "pending")]
        keys = {stage: self.plan.keys[stage] for stage in final}
        parts = {stage: {"key": key.value, "parts": key.parts} for stage, key in keys.items()}
        self.store.remember(self.plan.recipe.name, parts)
        self._tell_decisions()

    def check(self) -> bool:
        """Checks all stages that will run, in one worker; whether all is well."""
        for step in self.plan.to_run:
            if self.outcome.signal:
                return False
            result = self._do(step, "check")
            if result["event"] == "stage_checked":
                self.outcome.states[step.stage] = "checked"
                self.outcome.figures[step.stage] = result["figures"]
                if result["pending"]:
                    self._pending.add(step.stage)
        self._check_disk()
        for step in self.plan.to_run:
            if self.outcome.errors and step.stage not in self.outcome.errors:
                self._skip(step.stage, "a check failed, so nothing was computed")
        return not self.outcome.errors and not self.outcome.signal

    def run(self) -> None:
        for step in self.plan.to_run:
            afresh = ([step.key] if step.fresh else []) + [self.plan.keys[name].value for name in step.outdated]
            for key in afresh:
                self.store.supersede(key)  # now, for the next run may be another: this one may be stopped before
        for name in [step.stage for step in self.plan.to_run]:
            step = next(step for step in self.plan.steps if step.stage == name)
            lost = next((n for n in self.plan.needs(name) if self.outcome.states.get(n) in ("failed", "skipped")), None)
            if self.outcome.states.get(name) in ("cached", "skipped"):
                continue  # since a loop was decided
            if lost:
                self._skip(name, f"{lost!r} {self.outcome.states[lost]}")
            elif not self.outcome.signal:
                self._do(step, "run")
                self._decide(name)

    def _decide(self, stage: str) -> None:
        """Plans again after a gate: what awaited the loop may have its key now, and later rounds may be off."""
        if any(stage in loop.gates for loop in self.plan.recipe.loops.values()):
            before = {step.stage: step.state for step in self.plan.steps}
            self.outcome.plan = self._planned(made=self.outcome.artifacts)
            waiting = [s for s in self.plan.steps if self.outcome.states.get(s.stage) == "checked"]
            self._settle([step for step in waiting if step.state != before[step.stage]])
        self._tell_decisions()

    def _tell_decisions(self) -> None:
        """Records and tells what loops have come to, once it is there."""
        plan, recipe = self.plan, self.plan.recipe
        for name, decision in plan.decisions.items():
            results = {result: plan.meaning(result) for result in recipe.loops[name].results}
            made = {result: self.store.find(plan.keys[result].value) for result in results}
            there = all(made[result] or meaning not in recipe.stages for result, meaning in results.items())
            if decision is None or name in self._decided or not there:
                continue
            self._decided.add(name)
            for result, artifact in made.items():
                self.store.link(recipe.name, result, artifact)
            told = {result: {"key": plan.keys[result].value, "decided": plan.decided(result)} for result in results}
            self.store.remember(recipe.name, told)
            text = decision.told(", ".join(f"{result} is {meaning}" for result, meaning in results.items()))
            facts = {"round": decision.round, "stopped": decision.stopped, "text": text}
            self._emit("loop_decided", loop=name, results=results, **facts)

    def finish(self) -> None:
        code, failed = self.outcome.exit_code, list(self.outcome.errors)
        if self.outcome.signal:
            without = " without --fresh" if any(step.fresh for step in self.plan.steps) else ""
            self._emit("note", level="info", text=f"stopped; the same command{without} goes on from here")
        else:
            self._report()
        skipped = [name for name, state in self.outcome.states.items() if state == "skipped"]
        seconds = round(time.time() - self._started, 2)
        self._emit("run_finished", exit_code=code, failed=failed, skipped=skipped, seconds=seconds)

    def _report(self) -> None:
        """Makes the page about the last comparison, unless it is there. Whatever goes wrong, the run is done."""
        order = self.plan.recipe.stages
        made = [self.outcome.artifacts[name] for name in order if name in self.outcome.artifacts]
        if not any(artifact.kind == "report" for artifact in made):
            return
        from align.evals import report

        file = self.store.root / self.plan.recipe.name / "report.html"
        try:
            for compared in report.comparisons(made)[-1:]:
                report.refresh(compared, self.store, file)
                self.outcome.report = file
        except Exception as error:
            self._emit("note", level="warning", text=f"no report was made: {type(error).__name__}: {error}")
        if self.outcome.report:
            self._emit("report_written", path=str(self.outcome.report))

    def _do(self, step: Step, what: Literal["check", "run"]) -> dict[str, Any]:
        """Has a job done; the event of its result, which is recorded."""
        together = what == "run" and self.plan.recipe.stages[step.stage].distributed and self.machine.processes > 1
        with self._ranks() if together else contextlib.nullcontext(self._warm()) as workers:
            result: dict[str, Any] = {}
            for result in workers.do(self._job(step, what)):
                if not workers.alive and self.outcome.signal:
                    result = {"event": "interrupted", "stage": step.stage, "time": time.time()}
                self._record(step.stage, result)
        if what == "run" and result["event"] == "stage_failed" and not together:
            self._workers.pop().close()  # an error on a GPU, or a lack of memory, may outlive its stage
        return result

    def _record(self, stage: str, event: dict[str, Any]) -> None:
        match event["event"]:
            case "stage_finished" | "stage_cached" as name:
                made = self.store.find(event["key"])
                assert made is not None
                self._made(stage, "finished" if name == "stage_finished" else "cached", made)
            case "stage_failed":
                self.outcome.states[stage] = "failed"
                self.outcome.errors[stage] = event["error"]
            case "interrupted":
                self.outcome.states[stage] = "interrupted"
                self.outcome.signal = self.outcome.signal or signal.SIGINT
        self._emit_to(event)

    def _made(self, stage: str, state: State, artifact: Artifact) -> None:
        self.outcome.states[stage] = state
        self.outcome.artifacts[stage] = artifact
        self.store.link(self.plan.recipe.name, stage, artifact)

    def _skip(self, stage: str, because: str) -> None:
        self.outcome.states[stage] = "skipped"
        self._emit("stage_skipped", stage=stage, because=because)

    def _check_disk(self) -> None:
        """Fails the first stage whose files no longer fit beside those of the stages before it."""
        root, needed = self.store.root, list(accumulate(f.get("bytes", 0) for f in self.outcome.figures.values()))
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
        for stage, so_far in zip(self.outcome.figures, needed, strict=True):
            if so_far > free:
                error = (
                    f"the stages will write about {needed[-1] / 1e9:.1f} GB, but {root} has {free / 1e9:.1f} GB free."
                    " Free some with `align gc`, keep fewer checkpoints, or choose another disk with --store"
                )
                failed = {"event": "stage_failed", "stage": stage, "time": time.time(), "error": error, "log": None}
                return self._record(stage, failed)

    def _job(self, step: Step, what: Literal["check", "run"]) -> Job:
        recipe, stage = self.plan.recipe, self.plan.recipe.stages[step.stage]
        return Job(
            do=what, recipe=recipe.name, stage=step.stage, type=step.type, key=step.key, seed=recipe.seed,
            fields=stage.model_dump(mode="json", by_alias=True),
            inputs={name: self._input(name) for name in recipe.inputs(step.stage).values()},
            plugins=recipe.plugins, base=recipe.base, store=self.store.root.absolute(), machine=self.machine,
            code=code_of(stage), commit=self._commit, unchecked=step.stage in self._pending, fresh=step.fresh,
            smoke=recipe.smoke,
        )  # fmt: skip

    def _input(self, name: str) -> Input:
        recipe, meaning = self.plan.recipe, self.plan.meaning(name)
        if meaning != name:
            return self._input(meaning).model_copy(update={"decided": self.plan.decided(name)})
        made = Input(key=self.plan.keys[name].value, model=recipe.models.get(name), data=recipe.data.get(name))
        parent = self.plan.parent(name)
        if parent is None or self.store.find(made.key):
            return made
        before = self._input(parent)
        return made.model_copy(update={"forerunner": before.forerunner or before})

    def _warm(self) -> Workers:
        """The worker that does all that needs one process; started when first needed, and again if it died."""
        if self._workers and not self._workers[-1].alive:
            self._workers.pop().close()
        if not self._workers:
            self._workers.append(Workers(self.machine, tick=self._tick))
            self._pass_on(self._workers[-1])
        return self._workers[-1]

    @contextlib.contextmanager
    def _ranks(self) -> Iterator[Workers]:
        with Workers(self.machine, self.machine.processes, self._tick) as workers:
            self._workers.insert(0, workers)
            self._pass_on(workers)
            try:
                yield workers
            finally:
                self._workers.remove(workers)

    def _stop(self, number: int, frame: object) -> None:
        for workers in self._workers:
            workers.signal(signal.SIGKILL if self.outcome.signal else number)
        self.outcome.signal = self.outcome.signal or number

    def _pass_on(self, workers: Workers) -> None:
        """Sends the signal that came while these were being started."""
        if self.outcome.signal:
            workers.signal(self.outcome.signal)

    def _tick(self) -> None:
        if self.outcome.signal and not self._told:
            self._told = True
            self._emit("note", level="info", text="stopping after this step; once more stops at once")

    def _emit(self, event: str, **values: Any) -> None:
        self._emit_to({"event": event, "time": time.time(), **values})


def _facts(artifact: Artifact) -> dict[str, Any]:
    return {"key": artifact.key, "path": str(artifact.path), "metrics": artifact.metrics}


def _commit(folder: Path) -> str | None:
    """The git commit of a folder, with `+` if files differ from it; None outside of git."""

    def git(*arguments: str) -> str | None:
        with contextlib.suppress(OSError):
            done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True)
            return done.stdout.strip() if done.returncode == 0 else None
        return None

    commit = git("rev-parse", "HEAD")
    return f"{commit}+" if commit and git("status", "--porcelain", "--", ".") else commit
