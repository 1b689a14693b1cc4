"""Values as text of TOML, in the manner in which `cls.toml` is written."""

from __future__ import annotations

import json
import math
import re
from datetime import timedelta
from pathlib import Path

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])\s*")


def toml_value(value: object) -> str:
    """Return a value as it is written in TOML.

    Raises
    ------
    TypeError
        For what TOML has no way to write.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, timedelta):
        return f'"{duration_text(value)}"'
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{toml_key(str(key))} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    raise TypeError(f"TOML cannot write {type(value).__name__}")


def toml_key(name: str) -> str:
    """Return a key as it is written in TOML: bare where that is allowed."""
    bare = name.isascii() and name.replace("-", "_").replace("_", "a").isalnum()
    return name if bare else toml_value(name)


def duration_text(duration: timedelta) -> str:
    """Return a duration as it is written in `cls.toml`, in its largest whole unit."""
    milliseconds = round(duration.total_seconds() * 1000)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds % size == 0 and (milliseconds or unit == "s"):
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def parse_duration(value: object) -> object:
    """Return "30m", "6h", "1h30m" or "0s" as a timedelta; anything that is not a string as it is.

    Raises
    ------
    ValueError
        When a string or number has no unit that is known (ms, s, m, h, d, w).
    """
    if isinstance(value, str):
        if not value.strip() or _PART.sub("", value.strip()):
            raise ValueError('a duration is a number with a unit, like "30m", "6h" or "3d"')
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
        try:
            return timedelta(seconds=seconds)
        except OverflowError:
            raise ValueError("a duration this long cannot be counted") from None
    if isinstance(value, int | float):
        raise ValueError(f'a duration needs its unit and quotes, like "{value}s" or "{value}h"')
    return value
