"""Constitutions: written principles by which a model criticises, revises and compares replies (arXiv:2212.08073).

A constitution is a YAML file, found by its name as `constitutions/NAME.yaml` beside the recipe, else in the package, or
by its path. Two JSON forms of others are read as well: NeMo-Aligner's critique and revision instructions, and
llm-swarm's constitutions with their few-shot chats. A stage's key is made of the content, not of the name.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core.core_schema import ValidationInfo

from align.config import Config
from align.errors import suggestion
from align.records import Message, Messages
from align.registry import bundled

FOLDER = "constitutions"
LETTERS = ("A", "B")
"""The answers to a feedback question."""
DECIDE = "Answer with A or B."
PARTS = ("prompt", "reply", "critique_request", "critique", "revision_request", "revision")
"""The turns of a transcript."""


class Principle(Config):
    """One thing that replies should be or not be."""

    name: str
    """What reports call it."""
    critique: str
    """Asks what is wrong with the last reply."""
    revision: str
    """Asks for a better one."""
    question: str | None = None
    """Asks which of two replies is better; none means the one that gives less to say to the critique request."""
    weight: float = Field(1.0, gt=0)
    """How often it is drawn, relative to the others."""
    tags: tuple[str, ...] = ()
    """Words by which a stage can choose some of the principles."""

    @property
    def feedback(self) -> str:
        """The question that compares two replies."""
        return self.question or f"Which of the two replies leaves less to say here? {self.critique}"


class Transcript(Config):
    """A finished example: a reply that was criticised and revised. It shows a critic what is wanted."""

    before: tuple[str, ...] = ()
    """Earlier turns, of the user and the assistant in turn."""
    prompt: str
    """What was asked."""
    reply: str
    """The first reply."""
    principle: str | None = None
    """The principle whose requests are put; or the next two fields say them."""
    critique_request: str = ""
    """What asks for the critique."""
    critique: str
    """What was wrong with the reply."""
    revision_request: str = ""
    """What asks for the revision."""
    revision: str
    """The better reply."""

    def turns(self) -> Messages:
        """The example as a conversation."""
        said = [getattr(self, part) for part in PARTS]
        return tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate((*self.before, *said)))


class Constitution(Config):
    """A name or a path, or in full: principles, and examples of their use."""

    name: str = ""
    """What people call it; none means the file's name."""
    source: str = ""
    """Who wrote it, and after what."""
    principles: tuple[Principle, ...] = Field(min_length=1)
    """What replies are held to."""
    transcripts: tuple[Transcript, ...] = ()
    """Examples for the critic to go by."""

    @model_validator(mode="after")
    def _whole(self) -> Constitution:
        known = {principle.name: principle for principle in self.principles}
        if len(known) < len(self.principles):
            twice = next(p.name for p in self.principles if p is not known[p.name])
            raise ValueError(f"principles: {twice!r} is there twice")
        transcripts = tuple(_with_requests(transcript, known) for transcript in self.transcripts)
        object.__setattr__(self, "transcripts", transcripts)
        return self

    def tagged(self, tags: Sequence[str]) -> tuple[Principle, ...]:
        """The principles with one of these tags; all, where none is named. Raises ValueError on an unknown tag."""
        known = {tag for principle in self.principles for tag in principle.tags}
        for tag in tags:
            if tag not in known:
                raise ValueError(f"tags: no principle has the tag {tag!r}.{suggestion(tag, known)}")
        return tuple(p for p in self.principles if not tags or {*tags} & {*p.tags})


def drawn(principles: Sequence[Principle], seed: int) -> list[Principle]:
    """All the principles in a random order, in which heavier ones tend to come first.

    Its beginning is a sample without replacement, each next one drawn by weight (Efraimidis and Spirakis 2006).
    """
    chance = random.Random(seed)
    return sorted(principles, key=lambda principle: chance.random() ** (1 / principle.weight), reverse=True)


def asked_to_criticise(prompt: Messages, reply: str, principle: Principle, examples: Messages = ()) -> Messages:
    """The conversation that asks for a critique of a reply: examples, prompt, reply, request."""
    rules, turns = (prompt[:1], prompt[1:]) if prompt and prompt[0].role == "system" else ((), prompt)
    return (*rules, *examples, *turns, Message("assistant", reply), Message("user", principle.critique))


def asked_to_revise(criticised: Messages, critique: str, principle: Principle) -> Messages:
    """The conversation that asks for a revision, which goes on from the one that asked for the critique."""
    return (*criticised, Message("assistant", critique), Message("user", principle.revision))


def asked_to_compare(prompt: Messages, first: str, second: str, principle: Principle) -> Messages:
    """The question which of two replies is better; its answer is one of `LETTERS`.

    What is judged stands before the principle, so that all questions about it begin with the same tokens.
    """
    return (Message("user", f"{_comparison(prompt, first, second, principle)} {DECIDE}"),)


def asked_to_reason(prompt: Messages, first: str, second: str, principle: Principle) -> Messages:
    """The same question to be thought about before it is answered."""
    return (Message("user", f"{_comparison(prompt, first, second, principle)} Think step by step; do not decide yet."),)


def asked_to_decide(reasoned: Messages, thoughts: str) -> Messages:
    """The conversation that asks for the answer after those thoughts."""
    return (*reasoned, Message("assistant", thoughts), Message("user", DECIDE))


def _comparison(prompt: Messages, first: str, second: str, principle: Principle) -> str:
    said = "\n\n".join(f"{turn.role.capitalize()}: {turn.content.strip()}" for turn in prompt)
    replies = "\n\n".join(f"({letter}) {text.strip()}" for letter, text in zip(LETTERS, (first, second), strict=True))
    return f"Compare two replies.\n\n{said}\n\n{replies}\n\n{principle.feedback}"


# Files.


def find(name: str, base: Path | None = None) -> Constitution:
    """The constitution of a name or a path. Raises ValueError that names what there is, or the line that is wrong."""
    base, known = base or Path.cwd(), files(base)
    path = base / Path(name).expanduser()
    if path.suffix in (".yaml", ".yml", ".json") and path.is_file():
        return read(path)
    if name not in known:
        raise ValueError(f"there is no constitution {name!r}, as a name or a file.{suggestion(name, known)}")
    return read(known[name])


def files(base: Path | None = None) -> dict[str, Path]:
    """Every constitution's file by name; those beside the recipe hide the package's."""
    found: dict[str, Path] = {}
    for folder in ((base or Path.cwd()) / FOLDER, bundled("recipes") / FOLDER):
        for file in sorted(folder.glob("*.yaml")):
            found.setdefault(file.stem, file)
    return found


def read(file: Path) -> Constitution:
    """The constitution in a file. Raises ValueError that names the file and the line or key that is wrong."""
    text = file.read_text("utf-8")
    try:
        value, nodes = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not YAML: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file}: a constitution is a block of keys with `principles:`, found {type(value).__name__}")
    try:
        return Constitution.model_validate({"name": file.stem} | _ours(value))
    except KeyError as error:
        raise ValueError(f"{file}: {error.args[0]}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{file}:{_line(nodes, first['loc'])}: {where}: {what}".replace(": : ", ": ")) from None


def _line(node: Any, place: Sequence[int | str]) -> int:
    """The line of the value at a place, or of the nearest thing above it that the file has."""
    line = node.start_mark.line + 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
        else:
            node = None
        if node is None:
            break
        line = node.start_mark.line + 1
    return line


def _ours(value: dict[str, Any]) -> dict[str, Any]:
    """A file's value in our form. Raises KeyError where one of the others' forms lacks a key."""
    if "constitutions" in value:
        return _llm_swarm(value)
    if value and all(isinstance(entry, dict) and {"prompt", "edit_request"} & entry.keys() for entry in value.values()):
        return {"principles": [_nemo(name, entry) for name, entry in value.items()]}
    return value


def _nemo(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """NeMo-Aligner's form, in which a text carries the marks of a completion prompt."""
    missing = [key for key in ("prompt", "edit_request") if key not in entry]
    if missing:
        raise KeyError(f"{name}: {missing[0]!r} is missing")
    critique, revision = " ".join(entry["prompt"]), entry["edit_request"]
    return {
        "name": name,
        "critique": critique.strip().removeprefix("CritiqueRequest:").removesuffix("Critique:").strip(),
        "revision": revision.strip().removeprefix("RevisionRequest:").removesuffix("Revision:").strip(),
    }


def _llm_swarm(value: Mapping[str, Any]) -> dict[str, Any]:
    """llm-swarm's form: pairs of requests without names, and chats as examples, the last six turns of which count."""
    principles, transcripts = [], []
    for number, entry in enumerate(value["constitutions"], 1):
        missing = [key for key in ("critic", "revision") if key not in entry]
        if missing:
            raise KeyError(f"constitutions.{number - 1}: {missing[0]!r} is missing")
        principles.append({"name": f"principle-{number}", "critique": entry["critic"], "revision": entry["revision"]})
    for number, chat in enumerate(value.get("system_chat", ())):
        if len(chat) < len(PARTS) or len(chat) % 2:
            raise KeyError(f"system_chat.{number}: has {len(chat)} turns; an example has {len(PARTS)}, or pairs before")
        said = [turn["content"] for turn in chat]
        before, last = said[: -len(PARTS)], said[-len(PARTS) :]
        transcripts.append({"before": before, **dict(zip(PARTS, last, strict=True))})
    return {"principles": principles, "transcripts": transcripts}


def _with_requests(transcript: Transcript, principles: Mapping[str, Principle]) -> Transcript:
    """The transcript with the requests of the principle that it names."""
    if transcript.principle is None:
        if not (transcript.critique_request and transcript.revision_request):
            raise ValueError("transcripts: one needs `principle:`, or both requests in words")
        return transcript
    if transcript.principle not in principles:
        near = suggestion(transcript.principle, principles)
        raise ValueError(f"transcripts: there is no principle {transcript.principle!r}.{near}")
    named = principles[transcript.principle]
    return transcript.model_copy(update={"critique_request": named.critique, "revision_request": named.revision})


def _found(value: Any, info: ValidationInfo) -> Any:
    """The content in place of a name, so that the content is what the stage's key is made of."""
    return find(value, (info.context or {}).get("base")) if isinstance(value, str) else value


ConstitutionField = Annotated[Constitution, BeforeValidator(_found, json_schema_input_type=str | Constitution)]
"""The name of a constitution, the path of one, or one in full."""
