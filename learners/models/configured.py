"""Configurations from tables of their fields, as JSON and TOML write them. Torch-free."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def configured(kind: type[Config], given: Config | Mapping[str, Any] | None) -> Config:
    """Return a configuration: the given one, one of the given fields, in which lists become tuples, or the default.

    Raises
    ------
    ValueError
        If a field is none of the configuration, naming the nearest one; or as the configuration itself.
    """
    if isinstance(given, kind):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"model: config must be a {kind.__name__} or a dict of its fields, not {given!r}")
    known, arguments = [field.name for field in fields(kind)], given or {}
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"model: {name!r} is no field of {kind.__name__}; {hint}")
    return kind(**{name: frozen(value) for name, value in arguments.items()})


def frozen(value: Any) -> Any:
    """Return lists as tuples, at any depth."""
    return tuple(frozen(item) for item in value) if isinstance(value, list | tuple) else value
