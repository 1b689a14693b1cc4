"""Rows of a prediction request to columns, value by value as ingest reads them: what is served is what is learned from."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cls.columns.cells import BLANK, Mask, categories, numbers
from cls.columns.records import cells, to_table
from cls.columns.typed import derived
from cls.errors import BadData
from detectors.columns import Categorical, Column
from detectors.derivation import Derivation

_NUMBER_OR_NULL = {float, int, type(None)}
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
    return FeatureReader(numeric, categorical, derivations).read(records)


class FeatureReader:
    """Reads the features of one model from records; what depends on names alone is done once.

    Parameters
    ----------
    numeric, categorical, derivations
        As `read_features` has them.
    """

    def __init__(
        self, numeric: Sequence[str], categorical: Sequence[str], derivations: Sequence[Derivation] = ()
    ) -> None:
        wanted = {*numeric, *categorical}
        self._typed = [column for column in derivations if not wanted.isdisjoint(column.names)]
        derived_names = {name for column in self._typed for name in column.names}
        self._numeric = [name for name in numeric if name not in derived_names]
        self._categorical = [name for name in categorical if name not in derived_names]
        self._plain = (*self._numeric, *self._categorical)
        self._typed_names = [column.name for column in self._typed]
        self._raw = {*self._numeric, *self._categorical, *self._typed_names}
        self.features = (*numeric, None, *categorical)  # equal where two readers read the same

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Raise `FeatureError` if there is a feature that every record lacks."""
        if records[0].keys() >= self._raw:  # nearly always
            return
        for name in (*self._numeric, *self._categorical, *self._typed_names):
            if not any(name in record for record in records):
                raise FeatureError(f"no row has the feature {name!r}; send null where it is missing", name)

    def read(self, rows: Sequence[Mapping[str, Any]] | pa.Table) -> dict[str, Column]:
        """Return the columns of one request, records or a table; raises `FeatureError`."""
        if isinstance(rows, pa.Table):
            return self._table(rows)
        self.check(rows)
        return self.columns(rows)

    def columns(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
        """Return the columns of records that `check` has passed, maybe of several requests at once."""
        found = cells(records, self._plain)
        columns: dict[str, Column] = {**_matrix(found[: len(self._numeric)], self._numeric)}
        for name, texts in zip(self._categorical, found[len(self._numeric) :], strict=True):
            columns[name] = _categories(texts, name)
        return columns | _derived(records, self._typed) if self._typed else columns

    def _table(self, table: pa.Table) -> dict[str, Column]:
        """Read whole columns by the very functions of ingest."""
        for name in (*self._numeric, *self._categorical, *self._typed_names):
            if name not in table.column_names:
                raise FeatureError(f"no row has the feature {name!r}; send null where it is missing", name)
        columns: dict[str, Column] = {
            name: numbers(table, name, partial(_refuse, name, table), f"feature {name!r}")
            for name in self._numeric
        }
        for name in self._categorical:
            if pa.types.is_nested(table.schema.field(name).type):
                _refuse(name, table, np.ones(len(table), bool), f"feature {name!r} is not a category")
            columns[name] = categories(table, name)
        for column in self._typed:
            columns |= derived(table, [column], partial(_refuse, column.name, table))
        return columns


def _matrix(cells_FN: Sequence[Sequence[Any]], names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return numbers. Where all cells are numbers or null one conversion does for all, with the same result."""
    values_FN: NDArray[np.float64] | None = None
    with suppress(TypeError, OverflowError):  # text, null; an integer beyond the largest float
        flat = np.frombuffer(array("d", chain.from_iterable(cells_FN)))
        values_FN = flat.reshape(len(names), len(cells_FN[0]) if names else 0)
    if values_FN is None and set(map(type, chain.from_iterable(cells_FN))) <= _NUMBER_OR_NULL:
        with suppress(OverflowError):
            values_FN = np.array(cells_FN, np.float64)  # null becomes NaN
    if values_FN is not None and not np.isinf(values_FN).any():
        return dict(zip(names, values_FN, strict=True))
    return {name: _numbers(row, name) for name, row in zip(names, cells_FN, strict=True)}


def _derived(records: Sequence[Mapping[str, Any]], typed: Sequence[Derivation]) -> dict[str, Column]:
    """Derive through the very table that ingest would make of the records."""
    columns: dict[str, Column] = {}
    for column in typed:
        table = to_table([{column.name: record.get(column.name)} for record in records])
        columns |= derived(table, [column], partial(_refuse, column.name, table))
    return columns


def _refuse(name: str, table: pa.Table, mask: Mask, reason: str) -> None:
    for row in np.flatnonzero(mask).tolist():
        raise FeatureError(f"row {row}: {reason}: {_shown(table.column(name)[row].as_py())}", name, row)


def _numbers(column: Sequence[Any], name: str) -> NDArray[np.float64]:
    values = np.empty(len(column))
    for row, value in enumerate(column):
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


def _categories(column: Sequence[Any], name: str) -> Categorical:
    if set(map(type, column)) == {str}:
        index = dict.fromkeys(column)
        for code, text in enumerate(index):
            index[text] = code
        return Categorical(np.fromiter(map(index.__getitem__, column), np.int32, len(column)), tuple(index))
    for row, value in enumerate(column):
        if isinstance(value, dict | list | bytes):
            raise FeatureError(f"row {row}: feature {name!r} is not a category: {_shown(value)}", name, row)
    return Categorical.of([text_of(value) for value in column])


def text_of(value: Any) -> str | None:
    """Return a value as the text that ingest makes of it, as of a key or a category."""
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
