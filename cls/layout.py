"""The files of a checkpoint, by name, and the JSON in them. Torch-free.

- model.safetensors: weights and preprocessing buffers, all that predicting needs
- model.json: how to build the network (its spec), the learner's meta, the distribution that it came from
- learner.safetensors: what learning goes on from (Fisher, anchor, memory, optimiser)
- profile.json: the reference profile of the regime it was fitted to
- golden.json: a few rows, and what the version predicted for them where it was made
"""

from __future__ import annotations

import json
import re

from cls.domain import Json
from cls.errors import Corrupt

MODEL, SPEC, LEARNER, PROFILE = "model.safetensors", "model.json", "learner.safetensors", "profile.json"
GOLDEN = "golden.json"
JSON_CONTAINERS = 1 << 20  # lists and objects of one file, at most: each takes some hundred bytes when read
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def to_json(value: Json) -> bytes:
    """Encode JSON so that equal values have equal bytes; raises `ValueError` for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def read_json(data: bytes, name: str, limit: int) -> Json:
    """Return the object in a file, in memory bounded by `limit`.

    Parameters
    ----------
    name
        Of the file, for the error.
    limit
        Bytes that are read, at most.

    Raises
    ------
    Corrupt
        If it is too large, or no JSON object of plain text and finite numbers.
    """
    if len(data) > limit:
        raise Corrupt(f"{name} has {len(data)} bytes, more than the {limit} that are read")
    if data.count(b"[") + data.count(b"{") > JSON_CONTAINERS:
        raise Corrupt(f"{name} has more than {JSON_CONTAINERS} lists and objects")
    try:
        document = json.loads(data, parse_constant=_no_constant)
        if b"\\u" in data:
            json.dumps(document, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{name}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Corrupt(f"{name}: not a JSON object")
    return document


def check_names(names: list[str]) -> None:
    """Refuse files whose names lead elsewhere than into their own folder; raises `Corrupt`."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise Corrupt(f"a checkpoint has no file {name[:80]!r}")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
