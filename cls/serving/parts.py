"""A request on its way through the batches: the rows of it that one version answers, and what they came to."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls.columns.faults import FeatureError
from cls.doors.web import Problem
from cls.serving.models import LoadedModel
from detectors.columns import Columns

Floats = NDArray[np.float64]
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # names that JSONPath takes as they are
RowsOf = Any  # records as a list of objects, or a pyarrow.Table


@dataclass(frozen=True, eq=False)
class Predicted:
    """The answer to the rows of a part."""

    values: Floats  # (N,) predictions in target units, or (N, K) class probabilities
    model: LoadedModel
    logged: int  # rows


class Unreadable(Problem):
    """Rows that cannot be read.

    Parameters
    ----------
    error
        With the rows' numbers in the request.
    place
        JSONPath of a row in the body, with {} for its number.
    """

    def __init__(self, error: FeatureError, place: str = "$[{}]") -> None:
        first = error.faults[0]
        named = [
            {
                "path": path_of(place, fault.row, fault.field),
                "row": fault.row,
                "field": fault.field,
                "error": fault.reason,
                "found": fault.found,
                "fix": fault.fix,
            }
            for fault in error.faults
        ]
        super().__init__(422, str(error), field=first.field, row=first.row, errors=named, more=error.more)
        self.error = error


def path_of(place: str, row: int | None, field: str) -> str:
    """Return the JSONPath of a field: of one row, or of all of them."""
    name = f".{field}" if _PLAIN.fullmatch(field) else f"[{json.dumps(field, ensure_ascii=False)}]"
    return place.format("*" if row is None else row) + name


class Part:
    """Rows of one request, at least one, that one version is to answer.

    Parameters
    ----------
    rows
        Records, or a pyarrow.Table.
    loggable
        Which of them go to the log: all, none, or by row.
    numbers
        Their numbers in the request; None: from 0 on.
    columns
        Their features, where these were read beforehand; then the rows may be predicted piece by piece.
    """

    __slots__ = ("_values", "columns", "done", "loggable", "number", "numbers", "rows", "since", "start")

    def __init__(
        self,
        rows: RowsOf,
        loggable: bool | Sequence[bool],
        numbers: Sequence[int] | None = None,
        columns: Columns | None = None,
    ) -> None:
        self.rows = rows
        self.number = len(rows)
        self.loggable = loggable
        self.numbers = numbers
        self.columns = columns
        self.done: asyncio.Future[Predicted | Problem] = asyncio.get_running_loop().create_future()
        self.since = 0.0  # monotonic seconds; when it joined its lane
        self.start = 0  # rows that have been predicted
        self._values: list[Floats] = []

    def answer(self, outcome: Predicted | Problem) -> None:
        """Let its request go on; one that was given up does not care."""
        if not self.done.done():
            self.done.set_result(outcome)

    def add(self, values: Floats) -> Floats | None:
        """Take what its next rows came to; returns all of it once it is complete."""
        self.start += len(values)
        if self.start == self.number and not self._values:
            return values
        self._values.append(values)
        return np.concatenate(self._values) if self.start == self.number else None

    def begin_again(self, columns: Columns | None) -> None:
        """Forget what was predicted: another version is to answer."""
        self.start, self._values, self.columns = 0, [], columns

    def loggable_rows(self) -> list[int]:
        """Return which rows go to the log."""
        if isinstance(self.loggable, bool):
            return list(range(self.number)) if self.loggable else []
        return [row for row, good in enumerate(self.loggable) if good]

    def refuse(self, error: FeatureError) -> None:
        """Answer that its rows cannot be read, with the rows' numbers in the request."""
        self.answer(Unreadable(error if self.numbers is None else error.renumbered(self.numbers)))
