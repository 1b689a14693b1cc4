"""Verdicts as a table that stays readable at 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cls.cli.output import console, short

GAP = 3  # characters that a table puts between columns
LEAST = 16  # characters of the summary, however narrow the terminal
LINES = 2  # of a summary


def listing(
    rows: Sequence[Mapping[str, Any]], *, one_stream: bool
) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Return cells and headings; alarms say what they found, as far as two lines hold it, in a pipe all of it."""
    headings = {"id": "id"} | ({} if one_stream else {"stream": "stream"})
    headings |= {"detector": "by", "time_to": "to", "nats": "nats", "p_value": "p"}
    cells = [{name: _cell(name, row[name]) for name in headings} for row in rows]
    used = sum(
        GAP + max([len(heading), *(len(cell[name]) for cell in cells)]) for name, heading in headings.items()
    )
    room = LINES * max(console().width - used - GAP, LEAST)
    for cell, row in zip(cells, rows, strict=True):
        summary = row["summary"] if row["alarm"] else ""
        cell["summary"] = summary if len(summary) <= room else f"{summary[: room - 1 - LINES]}…"
    return cells, headings | {"summary": "alarm"}


def _cell(name: str, value: Any) -> str:
    from cls.verdict_words import probability

    if name == "time_to":
        return f"{value:%Y-%m-%d %H:%M}"
    if name == "p_value" and value is not None:
        return probability(value).removeprefix("p ").removeprefix("= ")
    return f"{value:.3g}" if name == "nats" and value is not None else short(value)
