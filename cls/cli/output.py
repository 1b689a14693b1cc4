"""What commands print: tables for people, plain JSON for scripts. One row of a listing is one JSON object."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

AsJson = Annotated[bool, typer.Option("--json", help="Print plain JSON.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Rows to show, the newest first.")]
OneStream = Annotated[
    str | None, typer.Argument(metavar="STREAM", help="Only this stream.", show_default=False)
]
Stream = Annotated[
    str, typer.Argument(metavar="STREAM", help="Name of the stream in cls.toml.", show_default=False)
]

_UNBOUNDED = 1000  # columns when nobody looks: nothing is cut off in a pipe


def plain(value: Any) -> Any:
    """Turn a value into what JSON can say: times in ISO 8601, numbers that JSON lacks as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def print_json(value: Any, *, secrets: bool = False, line: bool = False) -> None:
    """Print a value as JSON, on one line or on many; passwords and tokens are left out, unless `secrets` are what was asked for."""
    found = plain(value)
    indent = None if line else 2
    sys.stdout.write(
        json.dumps(found if secrets else _clean(found), indent=indent, ensure_ascii=False) + "\n"
    )
    sys.stdout.flush()


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {name: _clean(item) for name, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def clean(text: str) -> str:
    """Return a text without the passwords and tokens in it."""
    if not any(sign in text for sign in ("://", "cls_", "=")):  # nothing that could be one: most texts by far
        return text
    from cls.logging import redact

    return redact(text)


def rows_of(rows: Iterable[Any], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the named columns of rows from the database, in that order."""
    return [{name: getattr(row, name) for name in columns} for row in rows]


def console() -> Console:
    """Return where tables go: stdout, coloured on a terminal that wants it, never cut off in a pipe."""
    from rich.console import Console

    tty = sys.stdout.isatty()
    return Console(width=None if tty else _UNBOUNDED, highlight=False, soft_wrap=False)


def print_table(
    rows: Iterable[Mapping[str, Any]],
    columns: Mapping[str, str],
    *,
    title: str | None = None,
    empty: str = "nothing to show",
) -> None:
    """Print rows as a table; see `table_of`."""
    console().print(table_of(rows, columns, title=title, empty=empty))


def table_of(
    rows: Iterable[Mapping[str, Any]],
    columns: Mapping[str, str],
    *,
    title: str | None = None,
    empty: str = "nothing to show",
) -> RenderableType:
    """Return rows as a table; `columns` maps keys to headings.

    Numbers stand on the right, times are in UTC to the second, and nothing in a cell is read as markup.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    listed = [[row[key] for key in columns] for row in rows]
    if not listed:
        return Group(*([Text(title, style="italic")] if title else []), Text(empty))
    for index, heading in enumerate(columns.values()):
        kinds = {type(line[index]) for line in listed} - {type(None)}
        number = bool(kinds) and kinds <= {int, float}
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for line in listed:
        table.add_row(*(Text(clean(short(value))) for value in line))
    return table


def print_pairs(pairs: Mapping[str, Any], *, title: str | None = None) -> None:
    """Print names and values, one to a line."""
    console().print(pairs_of(pairs, title=title))


def pairs_of(pairs: Mapping[str, Any], *, title: str | None = None) -> RenderableType:
    """Return names and values, one to a line."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        table.add_row(Text(name, style="dim"), Text(clean(short(value))))
    return Group(*([Text(title, style="bold")] if title else []), table)


def short(value: Any) -> str:
    """Return a value as it stands in a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return "-" if not math.isfinite(value) else f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(plain(value), ensure_ascii=False)
    return str(value)


def ago(seconds: float) -> str:
    """Return a span of time in its largest fitting unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
