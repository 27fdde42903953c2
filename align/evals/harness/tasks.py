"""Benchmarks as lm_eval defines them: their documents, their metrics, and what became of each document."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.api.task
import numpy as np
from lm_eval.api.registry import get_aggregation
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from align.errors import AlignError, CheckError, DependencyError, suggestion
from align.evals.benchmarks import Benchmark, data_files
from align.evals.evaluate import Subject
from align.evals.harness.examinee import Examinee, Reader
from align.rewards.base import Better

SHOTS_SEED = 1234
"""lm_eval's own: the examples are those of figures that others have published."""
REDUCTIONS = ("mean", "nanmean", "perplexity", "weighted_perplexity", "bits_per_byte")
"""lm_eval's aggregations that are sums over documents, or functions of them."""

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # align says itself what matters

Row = dict[str, Any]
"""What became of one document: `task`, `document`, `filter`, `asked`; then `target`, `answered` (the text, or the
log-probabilities of the `options`) and `values` (metric -> [total, count]), or `left_out`, the tokens it would take."""


@dataclass(frozen=True)
class Metric:
    """One metric of a task."""

    name: str
    """lm_eval's, but for perplexities, of which the logarithm is what adds up over documents."""
    reduction: str | None
    """How lm_eval makes one number of the documents' values; None where that is no sum over them."""
    better: Better


@dataclass(frozen=True)
class Exam:
    """A benchmark with its tasks at hand."""

    benchmark: Benchmark
    tasks: dict[str, Task]
    metrics: dict[str, dict[str, Metric]]
    """task -> lm_eval's name of a metric -> the metric."""
    shared: frozenset[str] = frozenset()
    """The metrics that lm_eval itself counts over the documents of all tasks together, as those of `mmlu`."""

    @property
    def documents(self) -> int:
        most = self.benchmark.limit
        return sum(min(len(task.eval_docs), most or len(task.eval_docs)) for task in self.tasks.values())

    @property
    def written(self) -> bool:
        """Whether answers are written, so that nobody asks how likely one is."""
        return all(task.OUTPUT_TYPE == "generate_until" for task in self.tasks.values())

    @property
    def begun(self) -> bool:
        """Whether a task writes the first words of answers."""
        return any(task.get_config("gen_prefix") for task in self.tasks.values())

    @property
    def said(self) -> str:
        """What it is, for people."""
        told: dict[str, None] = {}
        for task in self.tasks.values():
            version = "" if task.VERSION in (None, "Yaml") else f"version {task.VERSION}, "
            told[f"{version}{task.get_config('num_fewshot')} examples"] = None
        most = f", the first {self.benchmark.limit} documents" if self.benchmark.limit else ""
        return f"{self.benchmark.task}, {'; '.join(told)}{most}, asked by lm_eval {lm_eval.__version__}"

    @property
    def content(self) -> list[Any]:
        """Everything that makes an answer what it is, beside who is asked."""
        made: list[Any] = [lm_eval.__version__, SHOTS_SEED, self.benchmark.max_new_tokens]
        for task in self.tasks.values():
            docs = [*task.eval_docs][: self.benchmark.limit]
            shots = [*(task.fewshot_docs() or ())] if task.get_config("num_fewshot") else []
            config = json.dumps(task.dump_config(), default=str, sort_keys=True)
            made += [re.sub(r" at 0x[0-9a-f]+", "", config), [str(doc) for doc in docs], [str(doc) for doc in shots]]
        return made


def load(benchmark: Benchmark, base: Path) -> Exam:
    """A benchmark's tasks with their documents. Raises CheckError where lm_eval has no such task, or no documents."""
    here = f"benchmark {benchmark.name!r}"
    lm_eval.api.task.datasets.disable_progress_bars()
    with _blamed(benchmark):
        found = _found(benchmark, base)
    for name, task in found["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise CheckError(f"{here}: {name} runs code that models write, which is not done here")
        if getattr(task, "MULTIMODAL", False):
            raise CheckError(f"{here}: {name} asks about pictures or sounds; only text can be asked here")
        _set_shots(task, benchmark, here)
    group = found.get("groups", {}).get(benchmark.task)
    shared = {metric.metric for metric in (group.aggregate_metric_list or ())} if group else set()
    metrics = {name: _metrics(task) for name, task in found["tasks"].items()}
    return Exam(benchmark, found["tasks"], metrics, frozenset(shared))


@contextmanager
def _blamed(benchmark: Benchmark) -> Iterator[None]:
    """Errors of lm_eval, and of tasks, which are other people's code, as one that names the benchmark."""
    here = f"benchmark {benchmark.name!r}"
    try:
        yield
    except AlignError:
        raise
    except ModuleNotFoundError as error:
        raise DependencyError(f"{here}: its task needs a package that is not installed: {error}") from None
    except OSError as error:  # datasets' errors about networks, caches and files are such
        raise CheckError(
            f"{here}: its documents are not to be had: {_line(error)}. Those on the hub need a network the first time"
        ) from None
    except Exception as error:
        raise CheckError(f"{here}: its task fails in lm_eval: {type(error).__name__}: {_line(error)}") from error


def _metrics(task: Any) -> dict[str, Metric]:
    sides, made = task.higher_is_better(), {}
    for name, used in task.aggregation().items():
        reduction = next((name for name in REDUCTIONS if used is get_aggregation(name)), None)
        better = "higher" if sides.get(name, True) else "lower"
        made[name] = Metric(name.replace("perplexity", "nll") if reduction else name, reduction, better)
    return made


def _found(benchmark: Benchmark, base: Path) -> Mapping[str, Any]:
    if benchmark.local:
        file = base / Path(benchmark.task).expanduser()
        fields = load_yaml(file)
        if not isinstance(fields.get("task"), str):
            raise CheckError(f"benchmark {benchmark.name!r}: {file} has no `task: NAME`; a file defines one task")
        if given := data_files(fields, file.parent):
            fields["dataset_kwargs"] = {**fields["dataset_kwargs"], "data_files": given}
        return TaskManager(include_defaults=False).load(fields)
    known = _known(benchmark.task)
    if benchmark.task not in known.all_tasks:
        near = suggestion(benchmark.task, known.all_tasks)
        raise CheckError(f"benchmark: lm_eval {lm_eval.__version__} has no task {benchmark.task!r}.{near}")
    return known.load(benchmark.task)


def _known(task: str) -> TaskManager:
    """What lm_eval brings: the folder of the task where its file is called so, else all, which takes long to read."""
    for file in sorted(Path(lm_eval.__file__).with_name("tasks").rglob(f"{task}.yaml")):
        if task in (near := TaskManager(include_defaults=False, include_path=file.parent)).all_subtasks:
            return near
    return _all_known()


@lru_cache(maxsize=1)
def _all_known() -> TaskManager:
    """Fourteen thousand files."""
    return TaskManager()


def _set_shots(task: Task, benchmark: Benchmark, here: str) -> None:
    own = task.get_config("num_fewshot")
    if benchmark.few_shot is not None and own == 0 != benchmark.few_shot:
        raise CheckError(f"{here}: its task is defined without examples; leave out few_shot")
    task.set_config("num_fewshot", own or 0 if benchmark.few_shot is None else benchmark.few_shot)


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def rehearse(exam: Exam, reader: Reader) -> None:
    """Writes the first question of each task for a policy. Raises CheckError where the template or the task can't."""
    examinee = Examinee(reader, exam.benchmark)
    for task in exam.tasks.values():
        task.set_fewshot_seed(SHOTS_SEED)
        with _no_bars(), _blamed(exam.benchmark):
            task.build_all_requests(
                limit=1, apply_chat_template=examinee.chats, fewshot_as_multiturn=True,
                chat_template=examinee.apply_chat_template if examinee.chats else None,
            )  # fmt: skip
            for request in task.instances:
                examinee.read(request)


def sit(subject: Subject, exam: Exam) -> list[Row]:
    """Puts the questions of a benchmark to a model, and returns what became of every document and filter."""
    examinee = Examinee(subject, exam.benchmark)
    for task in exam.tasks.values():
        task.set_fewshot_seed(SHOTS_SEED)
    with _no_bars(), _blamed(exam.benchmark):
        found: Any = evaluate(
            lm=examinee, task_dict={"tasks": exam.tasks}, limit=exam.benchmark.limit, log_samples=True,
            bootstrap_iters=0, apply_chat_template=examinee.chats, fewshot_as_multiturn=True,
        )  # fmt: skip
    return [
        _row(exam, examinee.too_long.get((name, sample["doc_id"])), name, sample)
        for name, samples in found["samples"].items()
        for sample in samples
    ]


def _row(exam: Exam, too_long: int | None, task: str, sample: Mapping[str, Any]) -> Row:
    row: Row = {"task": task, "document": sample["doc_id"], "filter": sample["filter"]}
    row["asked"] = str(sample["arguments"][0][0])
    if too_long is not None:
        return row | {"left_out": too_long}
    known = {metric.name: _value(metric, sample[name]) for name, metric in exam.metrics[task].items() if name in sample}
    answered = [replies[0] for replies in sample["resps"]]
    if isinstance(answered[0], tuple):
        row |= {"options": [arguments[1] for arguments in sample["arguments"]]}
        answered = [logp for logp, _ in answered]
    return row | {"target": str(sample["target"]), "answered": answered,
                  "values": {name: value for name, value in known.items() if value}}  # fmt: skip


def _value(metric: Metric, value: Any) -> list[float] | None:
    """The document's part of the metric's total, and of what the total is divided by; None where it has none."""
    if metric.reduction is None or (metric.reduction == "nanmean" and np.isnan(value)):
        return None
    if metric.reduction in ("mean", "nanmean"):
        return [float(value), 1.0]
    logp, count = value if isinstance(value, tuple) else (value, 1)
    return [-float(logp) / (np.log(2) if metric.reduction == "bits_per_byte" else 1), float(count)]


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of lm_eval, which would be written across align's own."""
    bars: Any = lm_eval.api.task
    bar, bars.tqdm = bars.tqdm, lambda rows, **_: rows
    try:
        yield
    finally:
        bars.tqdm = bar
