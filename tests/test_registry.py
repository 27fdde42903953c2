"""Names: built-in, from an installed package, from a plugin file."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from align import registry
from align.config import documentation
from align.errors import RecipeError
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
    registry.forget_plugins()
    yield
    registry.forget_plugins()


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    return file


def test_a_builtin_is_imported_when_it_is_asked_for() -> None:
    colours = Registry("colour", "align.tests.colours", {"red": "colorsys:rgb_to_hsv", "blue": "no.such.module:x"})
    assert colours.names() == ["blue", "red"]
    assert colours["red"](1.0, 0.0, 0.0) == (0.0, 1.0, 1.0)


def test_an_unknown_name_brings_the_nearest_one() -> None:
    with pytest.raises(RecipeError, match=r"no stage is called 'dop'\. Did you mean 'dpo'\?"):
        registry.stage("dop")


def test_a_name_is_given_once() -> None:
    colours: Registry[int] = Registry("colour", "align.tests.colours", {"red": "x:y"})
    colours.add("green", 1)
    assert colours["green"] == 1
    for name in ("red", "green"):
        with pytest.raises(RecipeError, match=f"a colour called '{name}' exists already"):
            colours.add(name, 2)


def test_installed_packages_add_names(monkeypatch: pytest.MonkeyPatch) -> None:
    violet = EntryPoint("violet", "colorsys:rgb_to_hls", "align.tests.colours")
    monkeypatch.setattr(registry, "installed", lambda: EntryPoints([violet]))
    colours = Registry("colour", "align.tests.colours", {"red": "x:y"})
    assert colours.names() == ["red", "violet"]
    assert colours["violet"](1.0, 1.0, 1.0) == (0.0, 1.0, 0.0)


def test_a_plugin_file_adds_its_stages_until_they_are_forgotten(plugin: Path) -> None:
    registry.load_plugin(plugin)
    assert registry.stage("nothing")().words == 20
    assert documentation(registry.stage("nothing")) == {"words": "Words to keep."}
    assert "nothing" in STAGES.names()
    registry.forget_plugins()
    assert "nothing" not in STAGES


def test_a_plugin_is_read_anew_and_leaves_nothing_behind(plugin: Path) -> None:
    registry.load_plugin(plugin)
    registry.forget_plugins()
    plugin.write_text(PLUGIN.replace("20", "30"))
    registry.load_plugin(plugin)
    assert registry.stage("nothing")().words == 30
    assert list(plugin.parent.iterdir()) == [plugin]


def test_a_plugin_registers_what_it_defines_and_not_what_it_imports(plugin: Path) -> None:
    other = plugin.with_name("other.py")
    registry.load_plugin(plugin)
    module = STAGES["nothing"].__module__
    registry.forget_plugins()
    other.write_text(f"from {module} import Nothing\nfrom align.stage import Stage\n")
    registry.load_plugin(other)
    assert "nothing" not in STAGES


def test_a_plugin_may_add_to_every_registry(tmp_path: Path) -> None:
    colours: Registry[int] = Registry("colour", "align.tests.colours", {})
    registry.the_colours = colours  # type: ignore[attr-defined]
    (tmp_path / "c.py").write_text("from align import registry\nregistry.the_colours.add('pink', 3)\n")
    registry.load_plugin(tmp_path / "c.py")
    assert colours["pink"] == 3
    registry.forget_plugins()
    assert "pink" not in colours
    del registry.the_colours  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (PLUGIN.replace('"nothing"', '"dpo"'), r"mine\.py: a stage called 'dpo' exists already; choose another name"),
        (PLUGIN.replace('    name = "nothing"\n', ""), r"mine\.py: stage class Nothing needs a class variable 'name'"),
        ("x = 1\n\n1 / 0\n", r"mine\.py:3: ZeroDivisionError: division by zero"),
        ("x = (1\n", r"mine\.py:1: SyntaxError: '\(' was never closed"),
        ("import no_such_module\n", r"mine\.py:1: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_broken_plugin_is_refused_with_its_line(plugin: Path, text: str, what: str) -> None:
    plugin.write_text(text)
    with pytest.raises(RecipeError, match=what):
        registry.load_plugin(plugin)


def test_a_plugin_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no file"):
        registry.load_plugin(tmp_path / "gone.py")


def test_the_built_in_stages_have_the_names_that_recipes_write() -> None:
    for name, made in registry.stages().items():
        assert made.name == name
