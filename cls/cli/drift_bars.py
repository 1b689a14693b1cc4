"""Pictures in the terminal, with or without colours: a feature's bins as bars, and a series as columns of blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cls.cli.output import console
from cls.shortening import told_apart

BAR = 24  # characters of the longest bar
LABEL = 28  # of a bin's label
BLOCKS = " ▁▂▃▄▅▆▇█"
SIDES = (("reference", "▒", "dim"), ("window", "█", "bold"))


def bars(name: str, top_bins: Iterable[Any], note: str = "") -> None:
    """Draw (label, reference share, current share) of some bins: the reference's share above the window's."""
    from rich.table import Table
    from rich.text import Text

    bins = list(top_bins)
    largest = max((max(reference, current) for _, reference, current in bins), default=0.0) or 1.0
    table = Table.grid(padding=(0, 1))
    labels = told_apart([str(label) for label, _, _ in bins], LABEL)
    for label, (_, *values) in zip(labels, bins, strict=True):
        for (side, block, style), value in zip(SIDES, values, strict=True):
            shown = f"{value:.1%}"
            bar = block * max(round(BAR * value / largest), 0 if shown == "0.0%" else 1)
            heading = Text(label) if side == "reference" else Text("")
            table.add_row(heading, Text(side, style="dim"), Text(bar, style=style), Text(shown))
    console().print(Text(name, style="bold"), Text(note, style="dim"))
    console().print(table)


def columns(
    values: Sequence[float | None], rows: int, *, top: float, limit: float | None = None
) -> list[str]:
    """Draw a series as lines of text from top to bottom, one character per value, its threshold as a dashed line.

    Parameters
    ----------
    values
        None leaves a gap, 0 a thin line.
    rows
        Lines of text.
    top
        Value at the upper edge.
    limit
        Threshold, at most `top`.
    """
    at = None if limit is None else limit_row(limit, rows, top=top)
    lines = []
    for row in reversed(range(rows)):
        eighths = [0 if value is None else _eighths(value, rows, row, top) for value in values]
        empty = "┄" if row == at else " "
        lines.append("".join(BLOCKS[filled] if filled else empty for filled in eighths))
    return lines


def limit_row(limit: float, rows: int, *, top: float) -> int:
    """Return the line that a threshold is drawn in, 0 at the bottom."""
    return min(int(limit / top * rows), rows - 1) if top > 0 else 0


def _eighths(value: float, rows: int, row: int, top: float) -> int:
    level = value / top * rows if top > 0 else 0.0
    filled = round(min(max(level - row, 0.0), 1.0) * 8)
    return max(filled, 1) if row == 0 else filled
