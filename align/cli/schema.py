"""Recipes as a JSON Schema, and the fields of a stage as rows; both from the stage classes and their docstrings."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from align import registry
from align.config import documentation
from align.recipe.load import Header
from align.recipe.loops import Group
from align.stage import Reference

NAMES = {str: "text", int: "integer", float: "number", bool: "yes or no", type(None): "none"}


@dataclass(frozen=True)
class Entry:
    """One field of a stage, nested ones by their path."""

    path: str
    type: str
    required: bool
    default: str
    doc: str
    reference: bool
    """Whether it takes the result of another stage, or an entry of `models:` or `data:`."""


def entries(block: type[BaseModel], prefix: str = "") -> Iterator[Entry]:
    """Every field of a stage or block, and of the blocks within it."""
    documented = documentation(block)
    for name, field in block.model_fields.items():
        path, inner = prefix + (field.alias or name), _block(field)
        yield Entry(
            path,
            spelled(field.annotation),
            field.is_required(),
            _default(field),
            documented.get(name, "").replace("\n", " "),
            _has_reference(field.annotation),
        )
        if inner:
            yield from entries(inner, f"{path}.")


def spelled(annotation: Any) -> str:
    """A type as people say it.

    >>> spelled(tuple[float, float] | None), spelled(Literal["linear", "cosine"])
    ('list of number, or none', 'linear | cosine')
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return spelled(inner[0])
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return ", or ".join(dict.fromkeys(map(spelled, inner)))
    if origin in (tuple, list, set, frozenset):
        return f"list of {spelled(inner[0])}" if inner else "list"
    if origin is dict:
        return f"mapping to {spelled(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Reference):
        return f"${'|'.join(annotation.kinds)}"
    return NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a whole recipe, with every registered stage."""
    stages = registry.stages()
    asked = [(model, "validation") for model in (Header, Group, *stages.values())]
    references, made = models_json_schema(asked)  # type: ignore[arg-type]
    blocks = made["$defs"]
    chosen = []
    for name, stage in stages.items():
        reference = references[stage, "validation"]
        fields = blocks[reference["$ref"].rpartition("/")[2]]
        fields["properties"] = {"stage": {"const": name}} | fields.get("properties", {})
        chosen.append({"if": {"properties": {"stage": {"const": name}}}, "then": reference})
    recipe = blocks.pop(references[Header, "validation"]["$ref"].rpartition("/")[2])
    blocks["Step"] = {
        "type": "object",
        "properties": {"stage": {"enum": list(stages), "description": "What this step does."}},
        "required": ["stage"],
        "allOf": chosen,
    }
    step, group = {"$ref": "#/$defs/Step"}, references[Group, "validation"]
    within = blocks[group["$ref"].rpartition("/")[2]]["properties"]
    within["stages"]["additionalProperties"] = step
    within["gate"] = {"anyOf": [within["gate"]["items"], within["gate"]]}
    entry = {"if": {"required": ["stages"]}, "then": group, "else": step}
    recipe["properties"]["stages"]["additionalProperties"] = entry
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": blocks} | recipe


def _block(field: FieldInfo) -> type[BaseModel] | None:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _has_reference(annotation: Any) -> bool:
    if isinstance(annotation, type):
        return issubclass(annotation, Reference)
    return any(map(_has_reference, get_args(annotation)))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "as below"
    if value is None or isinstance(value, str):
        return value or "none"
    return json.dumps(value, default=str)
