"""What a report is made from: a comparison, the replies it judged, and how the checkpoints were made."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from align.data import read_file
from align.data.files import read_rows
from align.disk import sha256_of_file
from align.errors import RecipeError
from align.evals.report import COMPARISON
from align.evals.statistics import shown
from align.records import Sample
from align.store import Ancestor, Artifact, Store

ONLY_ASKED = ("prompts", "held_out", "test", "watch", "judge", "critic")
"""Fields whose inputs teach nothing."""
Curve = tuple[list[float], list[float]]
"""Steps and values."""


@dataclass(frozen=True)
class Made:
    """An artifact of the lineage, under the name that its recipe gives it."""

    name: str
    artifact: Artifact
    inputs: dict[str, str]
    """Field -> name of what it took."""

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self.artifact.manifest

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """Everything that the stage told while it ran."""
        file = self.artifact.path / "events.jsonl"
        return read_rows(file) if file.is_file() else []

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """metric -> its training history; where a resumed run repeated a step, the later one counts."""
        steps = {event["step"]: event for event in self.events if event["event"] == "step"}
        names = dict.fromkeys(name for event in steps.values() for name in event if _is_number(event[name]))
        made: dict[str, Curve] = {}
        for name in names:
            points = [(at, steps[at][name]) for at in sorted(steps) if _is_number(steps[at].get(name))]
            made[name] = ([float(at) for at, _ in points], [float(value) for _, value in points])
        return made

    @property
    def calibration(self) -> list[dict[str, Any]]:
        """The calibration curve of a reward model that was tested."""
        file = self.artifact.path / "calibration.json"
        return json.loads(file.read_text()) if file.is_file() else []

    @property
    def verdict(self) -> str:
        """What held-out prompts say about a policy that learned from a reward; empty for all others."""
        file = self.artifact.path / "held_out.json"
        if not file.is_file():
            return ""
        found = json.loads(file.read_text())
        gain, kl, signs = found["reward"]["difference"], found["kl"]["after"]["value"], found["verdict"]["signs"]
        by = f"{shown(gain['difference'], '+')} [{shown(gain['low'], '+')}, {shown(gain['high'], '+')}]"
        hacked = f"signs that it was hacked: {'; '.join(signs)}" if signs else "nothing says that it was hacked"
        return f"reward of {gain['n']} held-out prompts {by} at a KL of {shown(kl)} nats a token; {hacked}"

    @property
    def notes(self) -> list[str]:
        return [event["text"] for event in self.events if event["event"] == "note"]


@dataclass(frozen=True)
class Material:
    """All that a report can show. What is absent is left out of it."""

    title: str
    found: dict[str, Any]
    """The content of comparison.json."""
    replies: dict[str, list[Sample]] = field(default_factory=dict)
    judgements: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """judge -> what it said of each pair of replies, as `align.evals.judging` keeps it."""
    lineage: Ancestor | None = None
    hash: str = ""
    """Of comparison.json, which says what a page is about."""

    @property
    def policies(self) -> list[str]:
        return list(self.found["policies"])

    @property
    def better(self) -> dict[str, str]:
        """The metrics that have a better side, and which, the most important first."""
        return {metric: side for metric, side in self.found["better"].items() if side}

    @cached_property
    def stages(self) -> list[Made]:
        """Every artifact that the comparison descends from, parents before children, each once."""
        return _made(_walk(self.lineage))

    def taught(self, policy: str) -> list[Made]:
        """Every artifact that a policy learned from: not what it was only asked or tested by, nor who judged it."""
        taken = self.lineage.inputs if self.lineage else ()
        return _made(chain.from_iterable(_walk(a, ONLY_ASKED) for a in taken if a.name == policy))


def of_folder(folder: Path, title: str, lineage: Ancestor | None = None) -> Material:
    """A comparison's folder, whether it is an artifact or what `align compare --out` kept."""
    file = folder / COMPARISON
    if not file.is_file():
        raise RecipeError(f"{folder}: no {COMPARISON} in it, so nothing to report")
    found = json.loads(file.read_text())
    files = {name: folder / "replies" / f"{name}.jsonl" for name in found["policies"]}
    replies = {
        name: [record for record in read_file(path) if isinstance(record, Sample)]
        for name, path in files.items() if path.is_file()
    }  # fmt: skip
    said = {name: folder / "judgements" / f"{name}.jsonl" for name in found.get("judges", {})}
    judgements = {name: read_rows(path) for name, path in said.items() if path.is_file()}
    return Material(title, found, replies, judgements, lineage, sha256_of_file(file))


def of_artifact(made: Artifact, store: Store) -> Material:
    """A comparison that a recipe's stage made, with its lineage."""
    manifest = made.manifest
    return of_folder(made.path, f"{manifest['recipe']}/{manifest['stage']}", store.lineage(made))


def of_inputs(folder: Path, title: str, inputs: Mapping[str, Any], store: Store) -> Material:
    """A comparison that no recipe made. inputs: name -> the artifact, model or dataset that it took."""
    taken = tuple(
        Ancestor("", name, value.key, value, store.lineage(value).inputs) if isinstance(value, Artifact)
        else Ancestor("", name, name, None)
        for name, value in inputs.items()
    )  # fmt: skip
    return of_folder(folder, title, Ancestor("", "comparison", "", None, taken))


def _made(ancestors: Iterable[Ancestor]) -> list[Made]:
    """The artifacts, each once."""
    made: dict[str, Made] = {}
    for ancestor in ancestors:
        if ancestor.artifact is not None and ancestor.key not in made:
            inputs = {taken.field: taken.name for taken in ancestor.inputs}
            made[ancestor.key] = Made(ancestor.name, ancestor.artifact, inputs)
    return list(made.values())


def _walk(ancestor: Ancestor | None, without: Container[str] = ()) -> Iterator[Ancestor]:
    """All that an artifact descends from, parents before children, but for what it took in the fields `without`."""
    for parent in ancestor.inputs if ancestor else ():
        if parent.field.split(".")[0] not in without:
            yield from _walk(parent, without)
            yield parent


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
