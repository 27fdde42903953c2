"""Names: built-in, or from an installed package."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from align import registry
from align.errors import RecipeError
from align.registry import Registry


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


def test_the_built_in_stages_have_the_names_that_recipes_write() -> None:
    for name, made in registry.stages().items():
        assert made.name == name
