"""What a recipe may write where a benchmark is wanted. Knows no torch and no lm_eval, so that planning can read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator
from pydantic_core.core_schema import ValidationInfo

from align.config import Config


class Benchmark(Config):
    """A task of lm-evaluation-harness by name, `arc_easy`, or in full, `{task: gsm8k, limit: 200, few_shot: 5}`."""

    task: str
    """A task, group or tag that lm_eval knows, or the file of a task of your own: `tasks/capitals.yaml`, beside which
    its data files are found."""
    name: str = Field("", pattern=r"^[^/*?\[\]]*$")
    """What its metrics begin with, as in `arc_easy/acc`; none means the task's name."""
    few_shot: int | None = Field(None, ge=0)
    """Solved examples before each question; none means as many as the task wants."""
    limit: int | None = Field(None, gt=0)
    """Only the first so many documents of each task; none means all."""
    max_new_tokens: int | None = Field(None, gt=0)
    """Where a written answer is cut off; none means where the task says. Likelihoods of given answers have no such
    limit."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        return {"task": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _complete(self, info: ValidationInfo) -> Benchmark:
        object.__setattr__(self, "name", self.name or (Path(self.task).stem if self.local else self.task))
        self.files((info.context or {}).get("base") or Path())
        return self

    @property
    def local(self) -> bool:
        """Whether it is a file rather than a name that lm_eval knows."""
        return self.task.endswith((".yaml", ".yml"))

    def files(self, base: Path) -> list[Path]:
        """The files that a task of one's own is made of: YAML, functions and data. Raises ValueError without them."""
        return list(dict.fromkeys(_files(base / Path(self.task).expanduser()))) if self.local else []


def data_files(fields: dict[str, Any], folder: Path) -> Any:
    """A task's `dataset_kwargs.data_files` with the paths of those that lie in a folder made absolute."""

    def found(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: found(item) for name, item in value.items()}
        if isinstance(value, list):
            return [found(item) for item in value]
        return str(folder.resolve() / value) if (folder / str(value)).is_file() else value

    return found((fields.get("dataset_kwargs") or {}).get("data_files"))


class _Function(str):
    """A function of a task, as `!function module.name` writes it."""


class _Loader(yaml.SafeLoader):
    """Reads a task without importing its functions."""


_Loader.add_constructor("!function", lambda loader, node: _Function(loader.construct_scalar(node)))  # type: ignore[arg-type]


def _files(file: Path) -> Iterator[Path]:
    try:
        fields = yaml.load(file.read_text("utf-8"), _Loader)
    except OSError:
        raise ValueError(f"task: there is no file {file}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"task: {file} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"task: {file} defines no task: it has no fields")
    yield file
    included = fields.get("include") or []
    for name in [included] if isinstance(included, str) else included:
        yield from _files(file.parent / name)
    for leaf in _leaves(fields):
        if isinstance(leaf, _Function):
            code = file.parent / f"{leaf.rpartition('.')[0].replace('.', '/')}.py"
            yield from [code] * code.is_file()
    yield from (path for leaf in _leaves(data_files(fields, file.parent)) if (path := Path(str(leaf))).is_file())


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
