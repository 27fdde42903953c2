"""What pydantic refuses, said in words that people use and at the keys of the file that they wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from align.config import documentation
from align.errors import suggestion
from align.machine import Machine
from align.source import Place

SAME = 0.9
"""Keys as alike as `principle` and `principles` are the same, misspelt."""
_ABOUT_A_KEY = ("missing", "extra_forbidden")


def problems(error: ValidationError, model: type[BaseModel], value: Any) -> Iterator[tuple[Place, str]]:
    """(path below `value`, what is wrong) for all that is wrong with a value that `model` refused.

    Branches of a union that fail at the same place become one message; where one of them got further into the value,
    the others are left out.
    """
    found: dict[Place, list[str]] = {}
    for e in error.errors(include_url=False):
        here = _place(value, e["loc"], keep_last=e["type"] in _ABOUT_A_KEY)
        what = _message(e, model, here)
        if e["type"] == "value_error":
            here, what = _key_meant(value, here, what)
        if what not in found.setdefault(here, []):
            found[here].append(what)
    for here, whats in found.items():
        if not any(len(other) > len(here) and other[: len(here)] == here for other in found):
            yield here, " or ".join(whats)


def a(noun: str) -> str:
    """A kind of artifact, or what an entry is, with its article."""
    return noun if noun == "records" else f"an {noun}" if noun == "endpoint" else f"a {noun}"


def _place(value: Any, loc: Place, keep_last: bool) -> Place:
    """The part of pydantic's location that the recipe knows; names of union branches are skipped."""
    made: Place = ()
    for i, part in enumerate(loc):
        inside = part in value if isinstance(value, dict) else isinstance(part, int) and isinstance(value, list)
        if inside:
            value = value[part] if isinstance(value, dict) or part < len(value) else None  # type: ignore[operator]
        if inside or (keep_last and i == len(loc) - 1):
            made = (*made, part)
    return made


def _message(error: Any, model: type[BaseModel], here: Place) -> str:
    kind, found = error["type"], error["input"]
    if kind == "missing":
        block, field = _fields(model, here[:-1]).get(str(here[-1]), (model, ""))
        return f"is missing. {_first_sentence(documentation(block).get(field, ''))}".rstrip()
    if kind == "extra_forbidden":
        return _unknown(str(here[-1]), model, here[:-1])
    if kind == "value_error":
        return str(error["ctx"]["error"])
    what = error["msg"].replace("Input should", "should").replace("String should", "should")
    what = what[:1].lower() + what[1:]
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        what = "should be a block of keys"
    if kind in ("tuple_type", "list_type"):
        what = "should be a list"
    if kind == "too_short":
        what = f"should have {error['ctx']['min_length']} or more entries"
    near = suggestion(found, re.findall(r"'([^']+)'", what)) if isinstance(found, str) else ""
    return f"{what}, found {found!r:.80}{'.' + near if near.startswith(' Did') else ''}"


def _unknown(key: str, model: type[BaseModel], path: Place) -> str:
    here = _fields(model, path)
    if get_close_matches(key, here, n=1, cutoff=SAME):
        return f"unknown key {key!r}.{suggestion(key, here)}"
    if key in Machine.model_fields:
        return f"{key!r} is a setting of the machine and belongs in no recipe; set ALIGN_{key.upper()} for this run"
    blocks: list[Place] = [(*path, name) for name in here] + [()] + [(name,) for name in _fields(model, ())]
    for block in blocks:
        if block != path and key in _fields(model, block):
            return f"unknown key {key!r}. It belongs " + (f"under {block[-1]!r}" if block else "in the stage itself")
    return f"unknown key {key!r}.{suggestion(key, here)}"


def _key_meant(value: Any, here: Place, what: str) -> tuple[Place, str]:
    """The first key in a validator's sentence that the file has, or path such as `principles.1.name`, is the place."""
    for part in here:
        value = value[part]
    for word in re.findall(r"[\w.]+", what) if isinstance(value, dict) else ():
        if path := _followed(value, word.rstrip(".").split(".")):
            return (*here, *path), what.removeprefix(f"{word}: ")
    return here, what


def _followed(value: Any, parts: list[str]) -> Place:
    """How far a path leads into a value."""
    made: Place = ()
    for part in parts:
        key = int(part) if isinstance(value, list) and part.isdigit() else part
        if not (key in value if isinstance(value, dict) else isinstance(key, int) and key < len(value)):
            break
        value, made = value[key], (*made, key)  # type: ignore[index]
    return made


def _fields(model: type[BaseModel], path: Place) -> dict[str, tuple[type[BaseModel], str]]:
    """What a recipe may write in a block at this path: the (block, field) of each name, over all union branches."""
    models = [model]
    for part in path:
        inner = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        if inner:
            models = [made for annotation in inner for made in _models(annotation)]
    return {f.alias or name: (m, name) for m in models for name, f in m.model_fields.items()}


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [made for inner in get_args(annotation) for made in _models(inner)]


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", " ".join(text.split()))[0]
