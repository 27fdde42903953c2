"""A recipe: YAML in, a checked graph of stages with content keys out. Knows no torch."""

from align.recipe.keys import Key
from align.recipe.load import Recipe, load

__all__ = ["Key", "Recipe", "load"]
