"""A file's YAML as plain values that remember their lines, so that every problem can say where it stands.

YAML as version 1.2 reads it: `2e-5` is a number, `on` and `no` are words, a repeated key is a mistake. In recipes
`${env:NAME}` and `${env:NAME:-default}` are replaced in values, before numbers are told from words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from align.errors import Problem, RecipeError, suggestion

Place = tuple[str | int, ...]
"""Keys and list positions from the top of a file to one of its values."""

SECTIONS = ("stages", "models", "data")
COMMAND_LINE = 0

_VARIABLE = re.compile(r"\$\{(?:env:(?P<name>\w+)(?::-(?P<default>[^}]*))?)?(?P<rest>[^}]*)\}?")
_PLAINLY = {
    "found character '\\t' that cannot start any token": "a tab; YAML is indented by spaces",
    "expected <block end>, but found '<block mapping start>'": "indented as no line above it is",
    "expected <block end>, but found '-'": "indented as no line above it is",
    "expected <block end>, but found '<block sequence start>'": "indented as no line above it is",
    "mapping values are not allowed here": (
        "mapping values are not allowed here; a text with a colon and a space in it needs quotes"
    ),
}
"""What PyYAML says in a parser's words, in those of people."""
_RESOLVERS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9_]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+|[0-9]+\.[0-9]*)|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's name for a table of its own


for _tag, _pattern in _RESOLVERS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), None)


@dataclass
class Source:
    """What a file says, line by line; over a recipe, overrides from the command line are laid."""

    file: Path
    text: str
    variables: bool = True
    """Whether `${env:NAME}` is replaced."""
    values: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, path: Place, what: str) -> None:
        """Notes a problem at a path, or at the nearest thing above it that the recipe contains."""
        self.problems.append(self.problem(path, what))

    def problem(self, path: Place, what: str) -> Problem:
        """A problem with its place filled in; one that an override caused has no file."""
        known = next(path[:n] for n in range(len(path), -1, -1) if path[:n] in self.lines)
        line = self.lines[known]
        where = ".".join(map(str, path))
        if line == COMMAND_LINE:
            return Problem(where, f"{what} (given on the command line)")
        return Problem(where, what, _shown(self.file), line)

    def at(self, path: Place) -> Any:
        """The value at a path, or None."""
        value = self.values
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def raise_problems(self) -> None:
        """Raises all problems noted so far, in the order of the file."""
        if self.problems:
            raise RecipeError(sorted(dict.fromkeys(self.problems), key=lambda problem: problem.line or 0))

    def override(self, text: str, known: tuple[str, ...]) -> None:
        """Lays `stages.dpo.beta=0.2`, or short `dpo.beta=0.2`, over the values. `known` are the recipe's own keys."""
        target, equals, value = text.partition("=")
        if not equals or not target:
            self.problems.append(Problem("", f"{text!r} is no override; write key=value, such as dpo.beta=0.2"))
            return
        path = self._full_path(target, known)
        if path is None:
            return
        parent = self.values
        for depth, part in enumerate(path[:-1], 1):
            if self.at(path[:depth]) is None:
                self.lines[path[:depth]] = COMMAND_LINE
            parent = _step_into(parent, part)
        if not isinstance(parent, dict) and not _is_index(path[-1], parent):
            self.problems.append(Problem(target, "there is nothing of that name to override"))
            return
        self.lines = {p: line for p, line in self.lines.items() if p[: len(path)] != path}
        parent[path[-1]] = _Reader(self, COMMAND_LINE).read(value, path)

    def _full_path(self, target: str, known: tuple[str, ...]) -> Place | None:
        first, *rest = target.split(".")
        if first not in known:
            sections = [s for s in SECTIONS if first in (self.at((s,)) or ())]
            if not sections:
                written = [f"{stage}.{target}" for stage in self._stages_with(first)]
                near = suggestion(first, [*known, *(name for s in SECTIONS for name in self.at((s,)) or ())])
                near = f" Did you mean {' or '.join(map(repr, written))}?" if written else near
                self.problems.append(Problem(target, f"nothing in the recipe is called {first!r}.{near}"))
                return None
            first, rest = sections[0], [first, *rest]
        if first in SECTIONS and (not rest or rest[0] not in (self.at((first,)) or ())):
            near = suggestion(rest[0], self.at((first,)) or ()) if rest else ""
            self.problems.append(Problem(target, f"an override changes an existing entry of {first!r}.{near}"))
            return None
        path: Place = (first,)
        for part in rest:
            if len(path) == 2 and part in (self.at((*path, "stages")) or ()):
                path = (*path, "stages")  # of a group: `cai.tune.epochs` is short for `cai.stages.tune.epochs`
            path = (*path, int(part) if isinstance(self.at(path), list) and part.isdigit() else part)
        return path

    def _stages_with(self, key: str) -> list[str]:
        """The stages that write a key in the file."""
        stages = self.at(("stages",))
        items = stages.items() if isinstance(stages, dict) else ()
        return [name for name, fields in items if isinstance(fields, dict) and key in fields]


def read(file: Path, what: str, variables: bool = True) -> Source:
    """A file as values with lines. Raises RecipeError only where the text is no YAML mapping at all; `what` says so."""
    try:
        source = Source(file, file.read_text("utf-8"), variables)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([Problem("", f"cannot be read: {error}", _shown(file))]) from None
    source.values = _Reader(source).read(source.text, ())
    if not isinstance(source.values, dict):
        source.raise_problems()
        raise RecipeError([Problem("", what, _shown(file), 1)])
    return source


class _Reader:
    """Turns YAML nodes into plain values and notes their lines; `line` stands for all of them where it is given."""

    def __init__(self, source: Source, line: int | None = None):
        self.source, self.line = source, line
        self.open: list[yaml.Node] = []

    def read(self, text: str, path: Place) -> Any:
        self.loader = _Loader(text)
        self._note(path, 1)
        try:
            node = self.loader.get_single_node()
        except yaml.YAMLError as error:
            self.source.problems.append(self._syntax(error, path))
            return None
        return None if node is None else self._value(node, path)

    def _value(self, node: yaml.Node, path: Place) -> Any:
        if any(node is other for other in self.open):
            self.source.add(path, "an alias that contains itself")
            return None
        self.open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return dict(self._entries(node, path))
            if isinstance(node, yaml.SequenceNode):
                return [self._item(item, (*path, i)) for i, item in enumerate(node.value)]
            return self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None
        finally:
            self.open.pop()

    def _entries(self, node: yaml.MappingNode, path: Place) -> Iterator[tuple[str, Any]]:
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value) if isinstance(key, yaml.ScalarNode) else "?", key.start_mark.line + 1
            if name in lines:
                self._note((*path, name), line)
                self.source.add((*path, name), f"{name!r} is given twice; the first is in line {lines[name]}")
            lines[name] = line
            self._note((*path, name), line)
            yield name, self._value(value, (*path, name))

    def _item(self, node: yaml.Node, path: Place) -> Any:
        self._note(path, node.start_mark.line + 1)
        return self._value(node, path)

    def _scalar(self, node: yaml.ScalarNode, path: Place) -> Any:
        if self.source.variables and "${" in node.value:
            node.value = _VARIABLE.sub(lambda match: self._variable(match, path), node.value)
            if node.style is None:
                node.tag = self.loader.resolve(yaml.ScalarNode, node.value, (True, False))
        try:
            return self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            self.source.add(path, f"{node.value!r}: {getattr(error, 'problem', error)}")
            return None

    def _variable(self, match: re.Match[str], path: Place) -> str:
        name, default = match["name"], match["default"]
        if name is None or match["rest"] or not match[0].endswith("}"):
            self.source.add(path, f"{match[0]!r}: only ${{env:NAME}} and ${{env:NAME:-default}} are replaced")
        elif name not in os.environ and default is None:
            self.source.add(path, f"environment variable {name} is not set; ${{env:{name}:-default}} gives a default")
        else:
            return os.environ.get(name) or default or ""
        return ""

    def _note(self, path: Place, line: int) -> None:
        self.source.lines[path] = line if self.line is None else self.line

    def _syntax(self, error: yaml.YAMLError, path: Place) -> Problem:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = str(getattr(error, "problem", None) or error)
        what = f"not YAML: {_PLAINLY.get(problem, problem)}"
        if self.line is not None:
            return self.source.problem(path, what)
        line = mark.line + 1 if mark else 1
        said = (self.source.text.splitlines() or [""])[min(line, self.source.text.count("\n") + 1) - 1]
        if self.source.variables and "${" in said:
            what += '; inside { } or [ ] a value with ${...} needs quotes: "${env:NAME}"'
        return Problem("", what, _shown(self.source.file), line)


def place_of(where: str) -> Place:
    """The place that a text such as `stages.dpo.data.0` names."""
    return tuple(int(part) if part.isdigit() else part for part in where.split("."))


def _step_into(parent: Any, part: str | int) -> Any:
    """The block inside a block, made if it is not there; None where there can be none."""
    if not isinstance(parent, dict):
        return parent[part] if _is_index(part, parent) else None
    if parent.get(part) is None:
        parent[part] = {}
    return parent[part]


def _is_index(part: str | int, items: Any) -> bool:
    return isinstance(items, list) and isinstance(part, int) and part < len(items)


def _shown(file: Path) -> Path:
    """A path as people write it: relative to here where it lies below."""
    resolved, here = file.resolve(), Path.cwd()
    return resolved.relative_to(here) if resolved.is_relative_to(here) else resolved
