"""Which principle shaped a reply: looked up in what its checkpoint learned from, never guessed.

A checkpoint learned from revisions (`critique_revise`) and from judged pairs (`ai_feedback`) of its lineage. A reply is
shaped by the principle by which the same words came about there: a revision changed the reply before into them, or a
judge preferred them. A reply in other words is linked to none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from align.data import read_file
from align.evals.report.material import Made, Material
from align.records import Demonstration, Messages, Preference, Sample, prompt_id

KINDS = {"critique_revise": ("critique", "revisions"), "ai_feedback": ("question", "preferences")}
"""What principles ask in a stage of a type, and what comes of it."""


@dataclass(frozen=True)
class Lesson:
    """How some words came about at one prompt."""

    stage: str
    principle: str
    prompt: Messages
    words: str
    told: dict[str, str]
    """What was said on the way, by what it is."""


class Shaping:
    """Everything that the checkpoints of a comparison learned by principles."""

    def __init__(self, of: Material):
        taught = {policy: [stage for stage in of.taught(policy) if _by_principles(stage)] for policy in of.policies}
        self._sources = {stage.artifact.key: stage for stages in taught.values() for stage in stages}
        self._lessons = {key: list(_lessons(stage)) for key, stage in self._sources.items()}
        self._known = {policy: self._by_words(stages) for policy, stages in taught.items()}

    def of(self, policy: str, sample: Sample) -> dict[str, Any] | None:
        """The lesson behind a reply: the last at the same prompt, else the first by the principle of most of them."""
        alike = self._known[policy].get(sample.reply.strip())
        if not alike:
            return None
        asked = prompt_id(sample.prompt)
        here = next((lesson for lesson in reversed(alike) if prompt_id(lesson.prompt) == asked), None)
        by = Counter(lesson.principle for lesson in alike)
        most = here.principle if here else by.most_common(1)[0][0]
        lesson = here or next(lesson for lesson in alike if lesson.principle == most)
        return {
            "principle": most, "stage": lesson.stage, "told": lesson.told, "count": by[most], "of": len(alike),
            "prompt": None if here else lesson.prompt[-1].content.strip(),
        }  # fmt: skip

    def principles(self) -> list[dict[str, Any]]:
        """Every principle, with what it asks and where it was at work."""
        rows: dict[str, dict[str, Any]] = {}
        for key, stage in self._sources.items():
            asks, what = KINDS[stage.manifest["type"]]
            shaped = Counter(lesson.principle for lesson in self._lessons[key])
            for principle in stage.manifest["fields"]["constitution"]["principles"]:
                row = rows.setdefault(principle["name"], {"name": principle["name"], "asks": {}, "work": []})
                row["asks"][principle.get(asks) or principle["critique"]] = True
                if count := shaped[principle["name"]]:
                    row["work"].append(f"{count:,} {what} in {stage.name}")
        return list(rows.values())

    def _by_words(self, stages: Sequence[Made]) -> dict[str, list[Lesson]]:
        known: dict[str, list[Lesson]] = {}
        for stage in stages:
            for lesson in self._lessons[stage.artifact.key]:
                known.setdefault(lesson.words, []).append(lesson)
        return known


def _by_principles(stage: Made) -> bool:
    return stage.manifest["type"] in KINDS


def _lessons(stage: Made) -> Iterator[Lesson]:
    for record in read_file(stage.artifact.path / "records.jsonl"):
        if isinstance(record, Demonstration):
            yield from _revised(stage.name, record)
        elif isinstance(record, Preference):
            yield from _preferred(stage.name, record)


def _revised(stage: str, record: Demonstration) -> Iterator[Lesson]:
    """By the revision that last changed the reply; none did where the reply was good from the start."""
    turns = record.extra["revisions"]
    before = [record.extra["initial"]["reply"], *(turn["reply"] for turn in turns)]
    for turn, old in reversed(list(zip(turns, before, strict=False))):
        if turn["reply"].strip() != old.strip():
            told = {"reply before": old, "critique": turn["critique"]}
            yield Lesson(stage, turn["principle"], record.messages[:-1], turn["reply"].strip(), told)
            return


def _preferred(stage: str, record: Preference) -> Iterator[Lesson]:
    """By the principle of which the judge was surest."""
    told = {"preferred to": record.rejected[-1].content, "label": f"{record.label:.2f}"}
    yield Lesson(stage, record.extra["principle"], record.prompt, record.chosen[-1].content.strip(), told)
