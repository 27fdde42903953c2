"""The replies, packed for the page's script: base64 of gzipped JSON, so that no reply can be read as markup."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

from align.evals.report.material import Material
from align.evals.report.principles import Shaping
from align.records import Sample, prompt_id

LIMIT = 11_000_000
"""Characters of packed replies; of more than that the most telling prompts are kept."""
DIGITS = 4
"""Of scores."""


def packed(of: Material, shaping: Shaping, limit: int = LIMIT) -> tuple[str, int, int]:
    """(packed replies, prompts in it, prompts there are)."""
    rows = _rows(of, shaping)
    made = _pack(of, rows)
    kept = rows
    while len(made) > limit and len(kept) > 1:
        kept = _telling(rows, of, int(len(kept) * limit / len(made) * 0.95))
        made = _pack(of, kept)
    return made, len(kept), len(rows)


def _rows(of: Material, shaping: Shaping) -> list[dict[str, Any]]:
    """One a prompt and reply index, in the order in which they were asked."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    metrics = scored(of)
    for i, samples in enumerate(of.replies.values()):
        for sample in samples:
            key = (prompt_id(sample.prompt), sample.index)
            row = rows.setdefault(key, {
                "id": sample.id, "prompt": [[m.role, m.content] for m in sample.prompt], "extra": dict(sample.extra),
                "replies": [None] * len(of.replies),
            })  # fmt: skip
            row["extra"] = {k: v for k, v in row["extra"].items() if k in sample.extra and sample.extra[k] == v}
            row["replies"][i] = sample
    _judged(of, rows)
    for row in rows.values():
        row["replies"] = [
            sample and _reply(sample, row["extra"], metrics) | _shaped(shaping.of(policy, sample))
            for policy, sample in zip(of.replies, row["replies"], strict=True)
        ]
    return list(rows.values())


def _judged(of: Material, rows: Mapping[tuple[str, int], dict[str, Any]]) -> None:
    """Adds to each row what judges said of its replies: [judge, policy, baseline, how likely the policy's is the better
    one or null, thoughts], the first three by number."""
    number = {name: i for i, name in enumerate(of.replies)}
    for judge, said in enumerate(of.judgements.values()):
        for one in said:
            row = rows.get((one["prompt"], one["index"]))
            if row is not None and {one["policy"], one["baseline"]} <= number.keys():
                p = None if None in one["both"] else round(sum(one["both"]) / 2, DIGITS)
                told = [judge, number[one["policy"]], number[one["baseline"]], p, one.get("thoughts", [])]
                row.setdefault("judged", []).append(told)


def _reply(sample: Sample, shared: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    scores = [round(sample.scores[m], DIGITS) if m in sample.scores else None for m in metrics]
    own = {name: value for name, value in sample.extra.items() if name not in shared}
    made: dict[str, Any] = {"text": sample.reply, "scores": scores, "tokens": sample.tokens}
    return made | ({"cut": 1} if sample.finish == "length" else {}) | ({"extra": own} if own else {})


def _shaped(lesson: dict[str, Any] | None) -> dict[str, Any]:
    return {"shaped": lesson} if lesson else {}


def _telling(rows: list[dict[str, Any]], of: Material, count: int) -> list[dict[str, Any]]:
    """The rows on which the policies differ most by the first metric, in their old order."""

    def spread(row: Mapping[str, Any]) -> float:
        scores = [reply["scores"][0] for reply in row["replies"] if reply and reply["scores"]]
        known = [score for score in scores if score is not None]
        return max(known) - min(known) if known else 0.0

    order = sorted(range(len(rows)), key=lambda i: -spread(rows[i]))
    return [rows[i] for i in sorted(order[: max(1, count)])]


def _pack(of: Material, rows: list[dict[str, Any]]) -> str:
    metrics = [{"name": name, "better": of.found["better"].get(name)} for name in scored(of)]
    content = {"policies": list(of.replies), "metrics": metrics, "rows": rows}
    content |= {"judges": list(of.judgements)} if of.judgements else {}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def scored(of: Material) -> list[str]:
    """What replies are scored by, those with a better side first."""
    known = dict.fromkeys(name for samples in of.replies.values() for sample in samples for name in sample.scores)
    return sorted(known, key=lambda name: name not in of.better)
