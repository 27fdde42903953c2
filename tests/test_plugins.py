"""Plugin files: what they add and for how long, what is refused, and which files they are made of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from align import registry
from align.config import documentation
from align.errors import RecipeError
from align.plugins import files_of, forget_plugins, load_plugin
from align.registry import STAGES, Registry

PLUGIN = """\
from __future__ import annotations

from typing import ClassVar

from align.stage import Context, Kind, Stage


class Nothing(Stage):
    \"\"\"Make nothing.\"\"\"

    name = "nothing"
    makes: ClassVar[Kind] = "report"

    words: int = 20
    \"\"\"Words to keep.\"\"\"

    def run(self, ctx: Context) -> dict[str, float]:
        return {}
"""


@pytest.fixture(autouse=True)
def no_plugins_stay() -> Iterator[None]:
    forget_plugins()
    yield
    forget_plugins()


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    return file


def test_a_plugin_file_adds_its_stages_until_they_are_forgotten(plugin: Path) -> None:
    load_plugin(plugin)
    assert registry.stage("nothing")().words == 20
    assert documentation(registry.stage("nothing")) == {"words": "Words to keep."}
    assert "nothing" in STAGES.names()
    forget_plugins()
    assert "nothing" not in STAGES


def test_a_plugin_is_read_anew_and_leaves_nothing_behind(plugin: Path) -> None:
    load_plugin(plugin)
    forget_plugins()
    plugin.write_text(PLUGIN.replace("20", "30"))
    load_plugin(plugin)
    assert registry.stage("nothing")().words == 30
    assert list(plugin.parent.iterdir()) == [plugin]


def test_a_plugin_registers_what_it_defines_and_not_what_it_imports(plugin: Path) -> None:
    other = plugin.with_name("other.py")
    load_plugin(plugin)
    module = STAGES["nothing"].__module__
    forget_plugins()
    other.write_text(f"from {module} import Nothing\nfrom align.stage import Stage\n")
    load_plugin(other)
    assert "nothing" not in STAGES


def test_a_plugin_may_add_to_every_registry(tmp_path: Path) -> None:
    colours: Registry[int] = Registry("colour", "align.tests.colours", {})
    registry.the_colours = colours  # type: ignore[attr-defined]
    (tmp_path / "c.py").write_text("from align import registry\nregistry.the_colours.add('pink', 3)\n")
    load_plugin(tmp_path / "c.py")
    assert colours["pink"] == 3
    forget_plugins()
    assert "pink" not in colours
    del registry.the_colours  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (PLUGIN.replace('"nothing"', '"dpo"'), r"mine\.py: a stage called 'dpo' exists already; choose another name"),
        (PLUGIN.replace('    name = "nothing"\n', ""), r"mine\.py: stage class Nothing needs a class variable 'name'"),
        ("x = 1\n\n1 / 0\n", r"mine\.py:3: ZeroDivisionError: division by zero"),
        ("x = (1\n", r"mine\.py:1: SyntaxError: '\(' was never closed"),
        (PLUGIN.replace("def run", "def walk"), r"mine\.py: stage class Nothing has a name, but no `run\(self, ctx\)`"),
        (
            PLUGIN.replace("words: int", "words: Number"),
            r"mine\.py: stage class Nothing: 'Number', the type of a field",
        ),
        (
            PLUGIN.replace("from __future__ import annotations\n", "").replace("words: int", "words: Number"),
            r"mine\.py:13: NameError: name 'Number' is not defined",
        ),
        ("x = [\n", r"mine\.py:1: SyntaxError: '\[' was never closed$"),
        ("import no_such_module\n", r"mine\.py:1: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_broken_plugin_is_refused_with_its_line(plugin: Path, text: str, what: str) -> None:
    plugin.write_text(text)
    with pytest.raises(RecipeError, match=what):
        load_plugin(plugin)


def test_a_plugin_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no file"):
        load_plugin(tmp_path / "gone.py")


USES_MORE = PLUGIN.replace("from typing", "import json\n\nimport words\nfrom kit import long\nfrom typing").replace(
    "= 20", "= words.COUNT + long.COUNT"
)
BESIDE = {
    "mine.py": USES_MORE,
    "words.py": "COUNT = 3\n",
    "kit/__init__.py": "from . import short\n",
    "kit/long.py": "from kit.short import COUNT\nimport align.errors, words\n",
    "kit/short.py": "COUNT = 4\n",
    "json.py": "raise ValueError('not the one that is meant')\n",
    "unused.py": "x = 1\n",
}


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A plugin that imports modules which lie beside it."""
    for name, text in BESIDE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_plugin_imports_what_lies_beside_it_anew_and_leaves_nothing_behind(beside: Path) -> None:
    before = sorted(beside.rglob("*"))
    load_plugin(beside / "mine.py")
    assert registry.stage("nothing")().words == 7
    assert sorted(beside.rglob("*")) == before
    forget_plugins()
    assert not {"words", "kit", "kit.long"} & sys.modules.keys() and str(beside) not in sys.path
    (beside / "words.py").write_text("COUNT = 10\n")
    load_plugin(beside / "mine.py")
    assert registry.stage("nothing")().words == 14


def test_what_a_plugin_was_there_for_before_stays(beside: Path) -> None:
    import json

    load_plugin(beside / "mine.py")
    forget_plugins()
    assert sys.modules["json"] is json


def test_a_stage_of_a_plugin_is_made_of_the_files_that_it_imports(beside: Path) -> None:
    load_plugin(beside / "mine.py")
    files = {file.relative_to(beside).as_posix() for file in files_of(registry.stage("nothing"))}
    assert files == BESIDE.keys() - {"unused.py", "json.py"}


def test_a_module_of_a_package_is_made_of_those_that_it_imports_from_there(tmp_path: Path) -> None:
    package = tmp_path / "house" / "rooms"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package.parent / "door.py").write_text("import no_such_module\n")
    (package / "mine.py").write_text(f"def later():\n    from house.door import key\n\n\n{PLUGIN[35:]}")
    load_plugin(package / "mine.py")
    files = {file.relative_to(tmp_path).as_posix() for file in files_of(registry.stage("nothing"))}
    assert files == {"house/rooms/mine.py", "house/__init__.py", "house/door.py"}


def test_a_stage_of_align_is_one_file() -> None:
    assert [file.name for file in files_of(registry.stage("dpo"))] == ["dpo.py"]
