"""What is wrong with the rows of a request: each field that cannot be read, what was found there, and what to send instead."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from cls.errors import BadData

NAMED = 20  # faults that one answer names; the rest are counted
_LONGEST = 60  # characters of what was found


@dataclass(frozen=True)
class Fault:
    """One value that cannot be read, or a feature that no row has."""

    field: str
    row: int | None  # from 0; None: all of them
    reason: str
    found: str | None  # as JSON, shortened; None: nothing
    fix: str

    def __str__(self) -> str:
        where = "" if self.row is None else f"row {self.row}: "
        found = "" if self.found is None else f": {self.found}"
        return f"{where}{self.reason}{found}; {self.fix}"


class FeatureError(BadData):
    """Rows that cannot be read as the features of a model.

    Parameters
    ----------
    faults
        The first ones, by row.
    more
        How many there are besides.
    """

    def __init__(self, faults: Sequence[Fault], more: int = 0) -> None:
        super().__init__(summary(faults, more))
        self.faults = tuple(faults)
        self.more = more

    def renumbered(self, numbers: Sequence[int]) -> FeatureError:
        """Return the same of rows that have these numbers."""
        faults = (
            fault if fault.row is None else replace(fault, row=numbers[fault.row]) for fault in self.faults
        )
        return FeatureError(tuple(faults), self.more)

    @classmethod
    def joined(cls, errors: Sequence[FeatureError]) -> FeatureError:
        """Return the faults of several parts of the same rows as one."""
        faults = sorted(chain.from_iterable(error.faults for error in errors), key=_by_row)
        return cls(faults[:NAMED], sum(error.more for error in errors) + len(faults[NAMED:]))


def summary(faults: Sequence[Fault], more: int) -> str:
    """Return the first fault in words, and how many others there are."""
    others = len(faults) - 1 + more
    return f"{faults[0]} (and {others} more)" if others else str(faults[0])


class Faults:
    """Collects the faults of some rows: all are counted, and the first rows of each field kept.

    Parameters
    ----------
    absent
        Features that no row has.
    """

    def __init__(self, absent: Sequence[str] = ()) -> None:
        fix = "send null where it is missing"
        self._found = [Fault(name, None, f"no row has the feature {name!r}", None, fix) for name in absent]
        self._number = len(absent)

    def add(
        self, field: str, rows: Sequence[int], reason: str, value: Callable[[int], Any], fix: str
    ) -> None:
        """Take the rows in which a field cannot be read; `value` returns what a row holds there."""
        self._number += len(rows)
        self._found += [Fault(field, row, reason, shown(value(row)), fix) for row in rows[:NAMED]]

    def check(self) -> None:
        """Raise `FeatureError` if there is a fault."""
        if self._number:
            named = sorted(self._found, key=_by_row)[:NAMED]
            raise FeatureError(named, self._number - len(named))


def _by_row(fault: Fault) -> int:
    return -1 if fault.row is None else fault.row


def shown(value: Any) -> str:
    """Return what was found as JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
