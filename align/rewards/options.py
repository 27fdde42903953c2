"""Options of registered functions: the arguments after those that are always given, checked by their annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model


def schema(function: Callable[..., Any], given: int, name: str) -> type[BaseModel]:
    """The options as a model made from the annotations of all arguments but the first `given`."""
    arguments = list(inspect.signature(function, eval_str=True).parameters.values())[given:]
    fields: dict[str, Any] = {a.name: (a.annotation, ... if a.default is a.empty else a.default) for a in arguments}
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


def checked(function: Callable[..., Any], given: int, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, in the types of the annotations. Raises ValueError."""
    model = schema(function, given, name)
    try:
        made = model.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(model.model_fields) or "none"
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"options: {where}: {first['msg']} (options of {name!r}: {known})") from None
    return {option: getattr(made, option) for option in made.model_fields_set}
