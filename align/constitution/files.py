"""Constitutions on disk, found by name or by path, and the JSON forms of others.

`constitutions/NAME.yaml` lies beside the recipe, else in the package. NeMo-Aligner's critique and revision
instructions, its few-shot samples, and llm-swarm's constitutions with their chats are read as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, RootModel, ValidationError
from pydantic_core.core_schema import ValidationInfo

from align import source as texts
from align.constitution.principles import PARTS, Constitution
from align.errors import RecipeError, suggestion
from align.problems import problems
from align.registry import bundled
from align.source import Source

M = TypeVar("M", bound=BaseModel)

FOLDER = "constitutions"
SUFFIXES = (".yaml", ".yml", ".json")
SHAPE = "a constitution is a block of keys with `principles:`"


def find(name: str, base: Path | None = None) -> Constitution:
    """The constitution of a name or a path. Raises ValueError that names what there is, or the lines that are wrong."""
    base, known = base or Path.cwd(), files(base)
    path = base / Path(name).expanduser()
    if path.suffix in SUFFIXES and path.is_file():
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
    """The constitution in a file, which may name others as its `principles` or `transcripts`.

    Raises ValueError that tells everything that is wrong, with its line.
    """
    source = _opened(file)
    value = {"name": file.stem} | _ours(source)
    for part in ("principles", "transcripts"):
        if isinstance(named := value.get(part), str):
            value[part] = _from_another(source, part, file.parent / named)
    return _checked(source, Constitution, value)


def _from_another(source: Source, part: str, file: Path) -> Any:
    found = _ours(_opened(file)).get(part) if file.is_file() else None
    if found is None:
        why = f"has no {part}" if file.is_file() else "is not there"
        raise ValueError(str(source.problem((part,), f"{file} {why}")))
    return found


def _opened(file: Path) -> Source:
    try:
        source = texts.read(file, SHAPE, variables=False)
        source.raise_problems()
    except RecipeError as error:
        raise ValueError(str(error)) from None
    return source


def _checked(source: Source, model: type[M], value: Any) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        told = [source.problem(place, what) for place, what in problems(error, model, value)]
        raise ValueError("\n".join(map(str, sorted(told, key=lambda problem: problem.line or 0)))) from None


# Forms of others.


class _Instruction(BaseModel):
    """Of NeMo-Aligner: requests that carry the marks of a completion prompt."""

    prompt: list[str]
    edit_request: str

    def ours(self, name: str) -> dict[str, str]:
        critique, revision = " ".join(self.prompt).strip(), self.edit_request.strip()
        return {
            "name": name,
            "critique": critique.removeprefix("CritiqueRequest:").removesuffix("Critique:").strip(),
            "revision": revision.removeprefix("RevisionRequest:").removesuffix("Revision:").strip(),
        }


class _Turn(BaseModel):
    content: str


def _whole(chat: Sequence[_Turn]) -> Sequence[_Turn]:
    if len(chat) < len(PARTS) or len(chat) % 2:
        raise ValueError(f"has {len(chat)} turns; an example has {len(PARTS)}, or pairs before")
    return chat


_Chat = Annotated[list[_Turn], AfterValidator(_whole)]


class _Requests(BaseModel):
    critic: str
    revision: str


class _Swarm(BaseModel):
    """Of llm-swarm: pairs of requests without names, and chats as examples."""

    constitutions: list[_Requests]
    system_chat: list[_Chat] = []


class _Samples(BaseModel):
    """Of NeMo-Aligner: chats as examples."""

    samples: list[_Chat]


def _ours(source: Source) -> dict[str, Any]:
    """A file's value in our form."""
    value = source.values
    if "constitutions" in value:
        swarm = _checked(source, _Swarm, value)
        principles = [
            {"name": f"principle-{number}", "critique": asked.critic, "revision": asked.revision}
            for number, asked in enumerate(swarm.constitutions, 1)
        ]
        return {"principles": principles, "transcripts": [_transcript(chat) for chat in swarm.system_chat]}
    if "samples" in value:
        return {"transcripts": [_transcript(chat) for chat in _checked(source, _Samples, value).samples]}
    if any(isinstance(entry, dict) and {"prompt", "edit_request"} & entry.keys() for entry in value.values()):
        instructions = _checked(source, RootModel[dict[str, _Instruction]], value).root
        return {"principles": [asked.ours(name) for name, asked in instructions.items()]}
    return value


def _transcript(chat: Sequence[_Turn]) -> dict[str, Any]:
    """A chat as an example, of which the last six turns count and the others come before."""
    said = [turn.content for turn in chat]
    return {"before": said[: -len(PARTS)], **dict(zip(PARTS, said[-len(PARTS) :], strict=True))}


def _found(value: Any, info: ValidationInfo) -> Any:
    """The content in place of a name, so that the content is what the stage's key is made of."""
    return find(value, (info.context or {}).get("base")) if isinstance(value, str) else value


ConstitutionField = Annotated[Constitution, BeforeValidator(_found, json_schema_input_type=str | Constitution)]
"""The name of a constitution, the path of one, or one in full."""
