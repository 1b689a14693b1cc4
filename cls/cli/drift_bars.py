"""Bars of a feature's bins in the terminal: where its values were, and where they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cls.cli.output import console

BAR = 24  # characters of the longest bar


def bars(name: str, top_bins: Iterable[Any]) -> None:
    """Draw (label, reference share, current share) of some bins: the reference's share above the window's."""
    from rich.table import Table
    from rich.text import Text

    bins = list(top_bins)
    largest = max((max(reference, current) for _, reference, current in bins), default=0.0) or 1.0
    table = Table.grid(padding=(0, 1))
    for label, reference, current in bins:
        for side, value, style in (("reference", reference, "dim"), ("window", current, "bold")):
            bar = "█" * max(round(BAR * value / largest), 1 if value else 0)
            heading = Text(str(label)) if side == "reference" else Text("")
            table.add_row(heading, Text(side, style="dim"), Text(bar, style=style), Text(f"{value:.1%}"))
    console().print(Text(name, style="bold"))
    console().print(table)
