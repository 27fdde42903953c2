"""Plugin files: Python beside a recipe that adds stages, rewards, row formats and the like, until the next recipe.

A plugin may import modules that lie beside it, or in the package that it is part of. They count among the files that it
is made of (`files_of`).
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import inspect
import linecache
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from pydantic import PydanticUndefinedAnnotation

from align import registry
from align.errors import RecipeError
from align.registry import STAGES
from align.stage import Stage

_PREFIX = "align_plugin_"
_folders: list[str] = []
"""What was added to `sys.path`."""
_beside: set[str] = set()
"""The modules that plugins imported from these folders."""


def forget_plugins() -> None:
    """Takes back every name that a plugin file has added, and the modules beside it."""
    registry.forget()
    for name in _beside:
        sys.modules.pop(name, None)
    for folder in _folders:
        sys.path.remove(folder)
    _beside.clear()
    _folders.clear()


def load_plugin(file: Path) -> ModuleType:
    """Runs a Python file and registers the stages that it defines; `@reward` and its like register themselves.

    The source is always read anew and leaves no `__pycache__` beside the recipe. Raises RecipeError with the line
    that failed.
    """
    file = file.resolve()
    module = ModuleType(f"{_PREFIX}{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    linecache.checkcache(str(file))
    try:
        with registry.loading_plugin(), _importing_from(file.parent):
            exec(compile(file.read_text("utf-8"), str(file), "exec", dont_inherit=True), module.__dict__)
            for made in _stages_of(module):
                STAGES.add(made.name, made)
    except FileNotFoundError:
        raise RecipeError(f"there is no file {file}") from None
    except RecipeError as error:
        raise RecipeError(f"{file.name}: {error}") from None
    except Exception as error:
        what = error.msg if isinstance(error, SyntaxError) else error
        raise RecipeError(f"{file.name}{_line_of(error, file)}: {type(error).__name__}: {what}") from error
    return module


def files_of(thing: object) -> list[Path]:
    """The file that defines a class or function, and of a plugin's those that it imports from beside it."""
    file = registry.file_of(thing)
    if file is None:
        return []
    return _with_imports(file) if thing.__module__.startswith(_PREFIX) else [file]


def _with_imports(file: Path) -> list[Path]:
    """A file and the local ones that it imports, directly or through one another."""
    found, ahead = list[Path](), [file]
    while ahead:
        found.append(ahead.pop())
        ahead += [other for other in dict.fromkeys(_imports(found[-1])) if other not in (*found, *ahead)]
    return found


def _imports(file: Path) -> Iterator[Path]:
    """The files that a file imports from its folder, or from the package that it is part of."""
    package = next(folder for folder in file.parents if not (folder / "__init__.py").exists())
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except SyntaxError:
        return  # told when it is imported
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names, roots = [alias.name for alias in node.names], [file.parent, package]
        elif isinstance(node, ast.ImportFrom):
            names = [".".join(filter(None, (node.module, alias.name))) for alias in node.names]
            roots = [file.parents[node.level - 1]] if node.level else [file.parent, package]
        else:
            continue
        for name in names:
            for root in roots:
                yield from _modules(root, name)


def _modules(root: Path, dotted: str) -> Iterator[Path]:
    """The files that `import dotted` runs, if it is found under a folder. Python's own modules and align come first."""
    parts = dotted.split(".")
    for part in parts if parts[0] not in (*sys.stdlib_module_names, "align") else ():
        root /= part
        yield from (file for file in (root.with_suffix(".py"), root / "__init__.py") if file.is_file())


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Lets modules of a folder be imported, until they are forgotten."""
    before, written = set(sys.modules), sys.dont_write_bytecode
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        _folders.append(str(folder))
    importlib.invalidate_caches()
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = written
        new = [name for name in sys.modules.keys() - before if name.partition(".")[0] not in before]
        _beside.update(name for name in new if any(_modules(folder, name)))


def _stages_of(module: ModuleType) -> Iterator[type[Stage]]:
    for thing in vars(module).values():
        own = isinstance(thing, type) and issubclass(thing, Stage) and thing.__module__ == module.__name__
        if own and inspect.isabstract(thing) and hasattr(thing, "name"):
            raise RecipeError(f"stage class {thing.__name__} has a name, but no `run(self, ctx)`")
        if own and not inspect.isabstract(thing):
            lacking = [name for name in ("name", "makes") if not hasattr(thing, name)]
            if lacking:
                raise RecipeError(f"stage class {thing.__name__} needs a class variable {lacking[0]!r}")
            try:
                thing.model_rebuild()
            except PydanticUndefinedAnnotation as error:
                what = f"stage class {thing.__name__}: {error.name!r}, the type of a field, is not defined"
                raise RecipeError(what) from None
            yield thing


def _line_of(error: Exception, file: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines.append(error.lineno)
    return f":{lines[-1]}" if lines else ""
