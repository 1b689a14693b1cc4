"""Recipes by name: the built-in ones, and those that installed packages bring. Torch-free, unless a package's own module is not."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType

from learners.recipe import RECIPES, Recipe

GROUP = "cls.recipes"


@cache
def known() -> Mapping[str, Recipe]:
    """Return every recipe by name; a built-in wins over one of the entry-point group `cls.recipes`.

    Raises
    ------
    TypeError
        If an entry point is no `Recipe`, naming it.
    """
    brought = {point.name: point.load() for point in entry_points(group=GROUP)}
    for name, recipe in brought.items():
        if not isinstance(recipe, Recipe):
            raise TypeError(
                f"entry point {name!r} of {GROUP} must be a learners.recipe.Recipe, not {recipe!r}"
            )
    return MappingProxyType({**brought, **RECIPES})
