"""What can be wrong in a configuration: faults with their place, line and the nearest right name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

Key = tuple[str, ...]  # path of a key from the top of the file

_PLAIN = {
    "tuple_type": 'must be a list, like ["a", "b"]',
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "string_type": "must be a string in quotes",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a configuration."""

    place: str  # "streams.flights.update.cadnce"; empty for the file as a whole
    line: int | None  # line in the file, from 1; None when it came from elsewhere
    message: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.place}: {self.message}" if self.place else f"{where}{self.message}"


class ConfigError(Exception):
    """A configuration that nothing can run on.

    Parameters
    ----------
    faults
        All that is wrong with it.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)) or "the configuration cannot be read")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean ...?" for the nearest of the known names, or the list of them."""
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.55)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known are {', '.join(sorted(known))}" if known else ""


def message_of(model: type[BaseModel], key: Key, detail: ErrorDetails) -> str:
    """Return what pydantic found at `key`, in words for the person who wrote the file."""
    known = _fields_around(model, key)
    kind, value = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return f"unknown key{nearest(key[-1], list(known))}"
    if kind == "missing":
        return f"missing: {known[key[-1]]}" if known.get(key[-1]) else "missing"
    if kind == "string_pattern_mismatch" and key[0] == "streams":
        return (
            "a stream's name has small letters, digits, - and _, begins with a letter and is at most 63 long"
        )
    if kind == "string_pattern_mismatch" and key[0] == "webhooks":
        return (
            f"must be http(s)://..., not {value!r}"
            if key[-1] == "url"
            else "a webhook's name is like a stream's"
        )
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected", "")))
        return f"must be one of {', '.join(allowed)}, not {value!r}" + (
            nearest(value, allowed)
            if isinstance(value, str) and difflib.get_close_matches(value, allowed)
            else ""
        )
    if kind == "string_pattern_mismatch":
        return f"must be host:port, not {value!r}"
    text = _PLAIN.get(kind) or detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{text}, not {value!r}" if isinstance(value, str | int | float | bool) else text


def _fields_around(model: type[BaseModel], key: Key) -> dict[str, str]:
    """Return the keys of the table around `key`, with their descriptions."""
    node: Any = model
    for part in key[:-1]:
        if isinstance(node, type) and issubclass(node, BaseModel):
            found = [f.annotation for name, f in node.model_fields.items() if (f.alias or name) == part]
            node = found[0] if found else None
        else:
            node = get_args(node)[1] if len(get_args(node)) == 2 else None
    if not (isinstance(node, type) and issubclass(node, BaseModel)):
        return {}
    return {f.alias or name: f.description or "" for name, f in node.model_fields.items()}


def line_of(text: str, key: Key) -> int | None:
    """Return the line (from 1) of a key in a TOML text, or that of the nearest table around it."""
    best: int | None = None
    depth = 0
    table: Key = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if head := re.match(r"\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$", line):
            here = table = _dotted(head[1])
        elif pair := re.match(
            r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""", line
        ):
            here = table + _dotted(pair[1])
        else:
            continue
        shared = next(
            (i for i, (a, b) in enumerate(zip(here, key, strict=False)) if a != b), min(len(here), len(key))
        )
        if shared > depth and (shared == len(here) or shared == len(key)):
            best, depth = number, shared
    return best


def _dotted(name: str) -> Key:
    return tuple(part.strip("\"'") for part in re.findall(r"""[\w-]+|"[^"]*"|'[^']*'""", name))
