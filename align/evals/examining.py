"""From what models did with the documents of benchmarks to metrics like all others, paired by document."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from align.config import Endpoint
from align.data.files import read_rows
from align.disk import sha256_of
from align.errors import CheckError, DependencyError
from align.evals.benchmarks import Benchmark
from align.evals.evaluate import Subject
from align.evals.fitting import readers
from align.evals.ready import is_ready
from align.evals.statistics import Measure
from align.rewards.base import Better
from align.stage import Context, Reference

if TYPE_CHECKING:
    from align.evals.harness.tasks import Exam, Row

VERSION = 3
"""Raise it when the same questions to the same model make other rows."""


@dataclass(frozen=True)
class Examined:
    """What a benchmark says of one model."""

    rows: list[Row]
    measures: dict[str, Measure] = field(default_factory=dict)
    better: dict[str, Better] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def exams(benchmarks: Iterable[Benchmark], base: Path) -> list[Exam]:
    """Benchmarks with their documents. Raises DependencyError without lm_eval, CheckError where one can't be had."""
    benchmarks = list(benchmarks)
    if not benchmarks:
        return []
    try:
        from align.evals.harness.tasks import load
    except ModuleNotFoundError as error:
        raise DependencyError(f"benchmarks: {error}; they need pip install 'align[eval]'") from None
    return [load(benchmark, base) for benchmark in benchmarks]


def rehearsed(ctx: Context, contestant: Reference, exam: Exam) -> int:
    """How many documents a contestant will be asked about, after its first ones were written for it as a rehearsal."""
    from align.evals.harness.examinee import Reader
    from align.evals.harness.tasks import rehearse

    if unable(ctx, contestant, exam):
        return 0
    for reader in readers(ctx, [contestant], ()):
        rehearse(exam, Reader(reader.name, reader.seen))
    return exam.documents


def unable(ctx: Context, contestant: Reference, exam: Exam) -> str:
    """Why a contestant can't be asked, or nothing."""
    if is_ready(ctx, contestant):
        return "only its replies are known"
    if not isinstance(ctx.inputs.get(contestant.name), Endpoint):
        return ""
    if not exam.written:
        return "it asks how likely given answers are, which a server does not say"
    return "it begins the answers itself, where a server can't go on" if exam.begun else ""


def examined(subject: Subject, exam: Exam, max_too_long: float) -> Examined:
    """The metrics of one benchmark of one model. Raises CheckError where more than that share leave no room."""
    rows = _known(subject, exam)
    made = Examined(rows)
    whole = sorted({m.name for metrics in exam.metrics.values() for m in metrics.values() if m.reduction is None})
    if whole:
        made.notes.append(
            f"{exam.benchmark.name}: {', '.join(whole)} is of all documents together and cannot be compared by document"
        )
    if said := _left_out(subject.name, exam, rows, max_too_long):
        made.notes.append(said)
    columns: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    filters = {row["filter"] for row in rows}
    for row in rows:
        known = {metric.name: metric for metric in exam.metrics[row["task"]].values()}
        for metric, (total, count) in row.get("values", {}).items():
            name = _name(exam, row, metric, len(filters) > 1)
            made.better[name] = known[metric].better
            columns[name].append((f"{row['task']}-{row['document']}", total, count))
    for name, column in columns.items():
        ids, totals, counts = zip(*column, strict=True)
        made.measures[name] = Measure(ids, np.array(totals), np.array(counts))
    return made


def _name(exam: Exam, row: Row, metric: str, filtered: bool) -> str:
    """`gsm8k/exact_match/strict-match`: the benchmark, its task where it has several, the metric, and the filter."""
    alone = len(exam.tasks) == 1 or metric in exam.shared
    parts = [exam.benchmark.name, *([] if alone else [row["task"]]), metric, *([row["filter"]] if filtered else [])]
    return "/".join(parts)


def _left_out(subject: str, exam: Exam, rows: Sequence[Row], limit: float) -> str:
    places = {(row["task"], row["document"]) for row in rows}
    out = {(row["task"], row["document"]): row["left_out"] for row in rows if "left_out" in row}
    if not out:
        return ""
    share, (place, tokens) = len(out) / len(places), next(iter(out.items()))
    said = (
        f"{len(out)} of {len(places)} documents ({share:.1%}) of {exam.benchmark.name} have no room in {subject}'s "
        f"context, such as {place[0]}-{place[1]} with {tokens} tokens"
    )
    if share > limit:
        raise CheckError(f"{said}; {limit:.1%} may be (max_too_long). Lower few_shot or max_new_tokens")
    return f"{said}; they have no value of it"


def _known(subject: Subject, exam: Exam) -> list[Row]:
    """From the store, or asked now; always now if nobody can say by a key which model this is."""
    from align.evals.harness.tasks import sit

    ctx = subject.ctx
    if subject.name not in ctx.keys or not subject.weights:  # a server's answers are kept one by one
        return sit(subject, exam)
    key = sha256_of([VERSION, ctx.keys[subject.name], exam.content, ctx.seed])[:24]
    folder = ctx.store.cached("benchmarks", key, lambda part: keep(sit(subject, exam), part / "rows.jsonl"))
    return read_rows(folder / "rows.jsonl")


def keep(rows: Iterable[Row], file: Path) -> None:
    """Writes what became of documents, a line each."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
