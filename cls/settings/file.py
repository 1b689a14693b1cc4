"""Reading `cls.toml`, with the environment laid over it."""

from __future__ import annotations

import copy
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from cls.settings.faults import Fault, Key, line_of, message_of

_SHORT = {"CLS_HOME": "home", "CLS_DATABASE_URL": "database_url", "CLS_MLFLOW_URI": "mlflow_uri"}
# What a missing key is taken for while the rest is judged; any other becomes its own name.
_PLACEHOLDER: dict[str, Any] = {"task": "regression", "schema": {}}


@dataclass
class Document:
    """A configuration file as it was found, overridden by the environment."""

    path: Path
    text: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    origin: dict[Key, str] = field(default_factory=dict)  # environment variable that set a key

    def fault(self, key: Key, message: str) -> Fault:
        """Return a fault at that key, with its line."""
        variable = next((name for path, name in self.origin.items() if path == key[: len(path)]), None)
        if variable:
            return Fault(".".join(key), None, f"{message} (from the environment variable {variable})")
        return Fault(".".join(key), line_of(self.text, key), message)

    def covers(self, faults: Sequence[Fault], fault: Fault) -> bool:
        """Tell whether `fault` only follows from one of `faults`: its place, or a key beside it that it names."""
        table = fault.place.rpartition(".")[0]
        for other in faults:
            around, _, name = other.place.rpartition(".")
            if other.place == fault.place or (
                around == table and re.search(rf"\b{re.escape(name)}\b", fault.message)
            ):
                return True
        return False

    def judge(
        self, model: type[BaseModel], error: ValidationError, values: dict[str, Any]
    ) -> tuple[list[Fault], dict[str, Any]]:
        """Return what `error` says as faults, and the values without the keys that are at fault."""
        repaired = copy.deepcopy(values)
        faults: dict[Key, Fault] = {}
        for detail in error.errors(include_url=False, include_context=True):
            parts = tuple(str(part) for part in detail["loc"] if part != "[key]")
            key = _existing(values, parts) if detail["type"] != "missing" else parts
            faults.setdefault(key, self.fault(key, message_of(model, key, detail)))
            _repair(repaired, key, missing=detail["type"] == "missing")
        return list(faults.values()), repaired


def read_document(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Document:
    """Read the file and lay the environment over it; faults of syntax are in the document.

    Parameters
    ----------
    path
        The file; by default $CLS_CONFIG, or ./cls.toml.
    environ
        The environment variables; by default those of this process.
    """
    environ = os.environ if environ is None else environ
    path = (path or Path(environ.get("CLS_CONFIG") or "cls.toml")).expanduser().absolute()
    document = Document(path)
    try:
        document.text = path.read_text(encoding="utf-8")
        document.values = tomllib.loads(document.text)
    except FileNotFoundError:
        document.faults.append(Fault("", None, f"there is no file {path}; `cls init` writes one"))
    except (OSError, UnicodeDecodeError) as error:
        document.faults.append(Fault("", None, f"{path} cannot be read: {error}"))
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        document.faults.append(
            Fault("", int(at[1]) if at else len(document.text.splitlines()), f"not TOML: {error}")
        )
    _override(document, environ)
    _resolve(document.values, path.parent)
    return document


def _override(document: Document, environ: Mapping[str, str]) -> None:
    for variable, text in sorted(environ.items()):
        if variable in _SHORT:
            path, value = [_SHORT[variable]], text if variable != "CLS_HOME" else str(Path(text).absolute())
        elif variable.upper().startswith("CLS__") and len(variable) > 5:
            path, value = variable[5:].split("__"), _toml_value(text)
        else:
            continue
        table: Any = document.values
        key: list[str] = []
        for depth, part in enumerate(path):
            name = next((k for k in table if k.lower().replace("-", "_") == part.lower()), part.lower())
            key.append(name)
            if depth == len(path) - 1:
                table[name] = value
            elif not isinstance(table := table.setdefault(name, {}), dict):
                document.faults.append(
                    Fault(".".join(key), None, f"{variable} goes into it, but it is no table")
                )
                break
        document.origin[tuple(key)] = variable


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _resolve(values: dict[str, Any], base: Path) -> None:
    def absolute(text: object) -> object:
        return str(base / Path(text).expanduser()) if isinstance(text, str) and text else text

    values["home"] = absolute(values.get("home", ".cls"))
    for name in ("database_url", "mlflow_uri"):
        url = values.get(name)
        if isinstance(url, str) and (file := re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^/:].*)", url)):
            values[name] = f"{file[1]}{base / file[2]}"
    http = values.get("http")
    for name in ("tls_certificate", "tls_key"):
        if isinstance(http, dict) and name in http:
            http[name] = absolute(http[name])
    streams = values.get("streams")
    for stream in streams.values() if isinstance(streams, dict) else ():
        source = stream.get("source") if isinstance(stream, dict) else None
        if isinstance(source, dict) and "path" in source:
            source["path"] = absolute(source["path"])


def _existing(values: dict[str, Any], parts: Key) -> Key:
    """Cut from a pydantic location what is not a key of the file, as the index in a list."""
    node: Any = values
    for depth, part in enumerate(parts):
        if not isinstance(node, dict) or part not in node:
            return parts[:depth]
        node = node[part]
    return parts


def _repair(values: dict[str, Any], key: Key, *, missing: bool) -> None:
    node: Any = values
    for part in key[:-1]:
        node = node.get(part) if isinstance(node, dict) else None
    if isinstance(node, dict) and key:
        if missing:
            node[key[-1]] = copy.deepcopy(_PLACEHOLDER.get(key[-1], f"<{key[-1]}>"))
        else:
            node.pop(key[-1], None)
