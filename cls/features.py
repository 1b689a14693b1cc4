"""Rows of a prediction request to columns, value by value as ingest reads them: what is served is what is learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls.cells import BLANK, Mask
from cls.errors import BadData
from cls.records import to_table
from cls.typed import derived
from detectors.columns import Categorical, Column
from detectors.derivation import Derivation

_NOT_DIGITS = frozenset("_")  # float() reads 1_000, ingest does not


class FeatureError(BadData):
    """A feature that no row has, or a value of the wrong type.

    Parameters
    ----------
    message
        For people.
    field
        Name of the feature.
    row
        Number of the row from 0, None if it is all of them.
    """

    def __init__(self, message: str, field: str, row: int | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.row = row


def read_features(
    records: Sequence[Mapping[str, Any]],
    numeric: Sequence[str],
    categorical: Sequence[str],
    derivations: Sequence[Derivation] = (),
) -> dict[str, Column]:
    """Return the features of some records.

    A value that is null, or that a record lacks, is missing; a feature that every record lacks is a mistake.

    Parameters
    ----------
    numeric, categorical
        Names of the features, as the model has them.
    derivations
        Typed columns that records may hold; what is derived from them has the names that the model has.

    Raises
    ------
    FeatureError
        Naming the feature and the row.
    """
    wanted = {*numeric, *categorical}
    typed = [column for column in derivations if not wanted.isdisjoint(column.names)]
    derived_names = {name for column in typed for name in column.names}
    for name in (*(n for n in (*numeric, *categorical) if n not in derived_names), *(c.name for c in typed)):
        if not any(name in record for record in records):
            raise FeatureError(f"no row has the feature {name!r}; send null where it is missing", name)
    columns: dict[str, Column] = {
        name: _numbers(records, name) for name in numeric if name not in derived_names
    }
    columns |= {name: _categories(records, name) for name in categorical if name not in derived_names}
    return columns | (_derived(records, typed) if typed else {})


def _derived(records: Sequence[Mapping[str, Any]], typed: Sequence[Derivation]) -> dict[str, Column]:
    """Derive through the very table that ingest would make of the records."""
    columns: dict[str, Column] = {}
    for column in typed:
        table = to_table([{column.name: record.get(column.name)} for record in records])
        columns |= derived(table, [column], partial(_refuse, column.name, records))
    return columns


def _refuse(name: str, records: Sequence[Mapping[str, Any]], mask: Mask, reason: str) -> None:
    for row in np.flatnonzero(mask).tolist():
        raise FeatureError(f"row {row}: {reason}: {_shown(records[row].get(name))}", name, row)


def _numbers(records: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    values = np.empty(len(records))
    for row, record in enumerate(records):
        value = record.get(name)
        number = value if type(value) is float else _number(value)
        if number is None:
            raise FeatureError(f"row {row}: feature {name!r} is not a number: {_shown(value)}", name, row)
        if math.isinf(number):
            raise FeatureError(f"row {row}: feature {name!r} is infinite", name, row)
        values[row] = number
    return values


def _number(value: Any) -> float | None:
    if value is None:
        return math.nan
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in BLANK:
            return math.nan
        if _NOT_DIGITS & set(text):
            return None
    elif not isinstance(value, int | float | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        return None


def _categories(records: Sequence[Mapping[str, Any]], name: str) -> Categorical:
    texts: list[str | None] = []
    for row, record in enumerate(records):
        value = record.get(name)
        if isinstance(value, dict | list | bytes):
            raise FeatureError(f"row {row}: feature {name!r} is not a category: {_shown(value)}", name, row)
        texts.append(_text(value))
    return Categorical.of(texts)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
