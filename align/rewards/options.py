"""Registered functions and their options: the arguments after those that are always given, checked by annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

Better = Literal["higher", "lower"] | None
"""Which results are good. None: neither; it describes a reply, as its length does."""


@dataclass(frozen=True)
class Named:
    """A function that recipes call by a name, be it a reward's or a metric's."""

    given: ClassVar[int]
    """Arguments that are always given; those after them are options."""
    name: str
    function: Callable[..., Any]
    better: Better = None

    @cached_property
    def schema(self) -> type[BaseModel]:
        """The options, as a model made from the function's annotations."""
        arguments = list(inspect.signature(self.function, eval_str=True).parameters.values())[self.given :]
        fields: dict[str, Any] = {a.name: (a.annotation, ... if a.default is a.empty else a.default) for a in arguments}
        return create_model(self.name, __config__=ConfigDict(extra="forbid"), **fields)

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that were given, in the types of the annotations. Raises ValueError."""
        try:
            made = self.schema.model_validate(dict(options))
        except ValidationError as error:
            first = error.errors()[0]
            known = ", ".join(self.schema.model_fields) or "none"
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"options: {where}: {first['msg']} (options of {self.name!r}: {known})") from None
        return {option: getattr(made, option) for option in made.model_fields_set}
