"""What reading a file comes to, piece by piece: the same row always begins the same piece.

A piece is a run of good records as a table, or a run of malformed lines with the reason of the first. Memory is bounded by a few pieces.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from cls.domain import Json


@dataclass(frozen=True)
class Fault:
    """Why something cannot be read."""

    reason: str
    details: Json = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Piece:
    """Some records of a file; either `table` or `fault` is there."""

    rows: int
    table: Any = None  # pyarrow.Table
    fault: Fault | None = None


class Reader(Protocol):
    """An open file."""

    def skip(self, rows: int) -> None:
        """Pass over records."""
        ...

    def read(self, rows: int) -> Piece | None:
        """Return the next piece of at most `rows` records, None at the end."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...
