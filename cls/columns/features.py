"""Rows of a prediction request to columns, value by value as ingest reads them: what is served is what is learned from."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cls.columns.cells import BLANK, TRUTH, Mask, Report, categories, numbers
from cls.columns.faults import Faults
from cls.columns.records import cells, to_table
from cls.columns.typed import derived
from detectors.columns import Categorical, Column
from detectors.derivation import Derivation

_NUMBERS = frozenset(
    kind.id for kind in (pa.float64(), pa.float32(), pa.int64(), pa.int32(), pa.int16(), pa.int8())
)
_FEW_CELLS = 20_000  # and
_FEW_BYTES = 1_000_000  # read without a thread in some milliseconds
_FEW_ROWS = 1_000  # of a table, below which Arrow's own way to categories costs more than Python's
_FIXES = {
    "number": "send a number, or null where it is missing",
    "category": "send a text, or null where it is missing",
    "boolean": "send true or false, or null where it is missing",
    "timestamp": "send ISO 8601 or epoch seconds, or null where it is missing",
    "text": "send a text, or null where it is missing",
    "embedding": "send a list of {} finite numbers, or null where it is missing",
}


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
        Naming each value that cannot be read.
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
        self._names = (*self._plain, *self._typed_names)
        self._raw = {*self._names}
        self.features = (*numeric, None, *categorical)  # equal where two readers read the same

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Raise `FeatureError` if there is a feature that every record lacks; it names what else is wrong, too."""
        if records[0].keys() >= self._raw:  # nearly always
            return
        absent = [name for name in self._names if not any(name in record for record in records)]
        if absent:
            faults = Faults(absent)
            self._records(records, faults)
            faults.check()

    def read(self, rows: Sequence[Mapping[str, Any]] | pa.Table) -> dict[str, Column]:
        """Return the columns of one request, records or a table; raises `FeatureError`."""
        if isinstance(rows, pa.Table):
            return self._table(rows)
        self.check(rows)
        return self.columns(rows)

    def columns(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
        """Return the columns of records that `check` has passed, maybe of several requests at once."""
        faults = Faults()
        columns = self._records(records, faults)
        faults.check()
        return columns

    def _records(self, records: Sequence[Mapping[str, Any]], faults: Faults) -> dict[str, Column]:
        found = cells(records, self._plain)
        columns: dict[str, Column] = {**_matrix(found[: len(self._numeric)], self._numeric, faults)}
        for name, texts in zip(self._categorical, found[len(self._numeric) :], strict=True):
            columns[name] = _categories(texts)
        return columns | _derived(records, self._typed, faults) if self._typed else columns

    def quick(self, table: pa.Table) -> bool:
        """Whether reading a table is no work: few cells, its numbers are numbers, and nothing is derived."""
        few = (
            len(table) <= _FEW_ROWS
            and len(table) * len(self._plain) <= _FEW_CELLS
            and table.nbytes <= _FEW_BYTES
        )
        return few and not self._typed and _are_numbers(table, self._numeric)

    def _table(self, table: pa.Table) -> dict[str, Column]:
        """Read whole columns by the very functions of ingest; but a list, which ingest takes for a missing category, is refused."""
        present = frozenset(table.column_names)
        faults = Faults([name for name in self._names if name not in present])
        columns: dict[str, Column] = {**(_tensor(table, self._numeric) or {})}
        for name in self._numeric if not columns else ():
            columns[name] = numbers(table, name, _report(faults, table, name, "number"), f"feature {name!r}")
        for name in self._categorical:
            if len(table) <= _FEW_ROWS and _is_text(table, name):
                columns[name] = _categories(table.column(name).to_pylist())
                continue
            if name in table.column_names and pa.types.is_nested(table.schema.field(name).type):
                lists = np.asarray(table.column(name).is_valid())
                _report(faults, table, name, "category")(lists, f"feature {name!r} is not a category")
            columns[name] = categories(table, name)
        for column in self._typed:
            columns |= derived(
                table, [column], _report(faults, table, column.name, column.kind, column.length)
            )
        faults.check()
        return columns


def _matrix(
    cells_FN: Sequence[Sequence[Any]], names: Sequence[str], faults: Faults
) -> dict[str, NDArray[np.float64]]:
    """Return numbers. Where all cells are numbers or null one conversion does for all, with the same result."""
    values_FN: NDArray[np.float64] | None = None
    shape = (len(names), len(cells_FN[0]) if names else 0)
    with suppress(TypeError, OverflowError):  # text, null; an integer beyond the largest float
        values_FN = np.frombuffer(array("d", chain.from_iterable(cells_FN))).reshape(shape)
    if values_FN is None:
        with suppress(TypeError, OverflowError):
            known = [math.nan if cell is None else cell for cell in chain.from_iterable(cells_FN)]
            values_FN = np.frombuffer(array("d", known)).reshape(shape)
    if values_FN is not None and not np.isinf(values_FN).any():
        return dict(zip(names, values_FN, strict=True))
    return {name: _numbers(row, name, faults) for name, row in zip(names, cells_FN, strict=True)}


def _are_numbers(table: pa.Table, names: Sequence[str]) -> bool:
    """Whether a table has columns, and they are of floats or integers."""
    places = [table.schema.get_field_index(name) for name in names]
    return min(places, default=0) >= 0 and _NUMBERS.issuperset(table.field(place).type.id for place in places)


def _tensor(table: pa.Table, names: Sequence[str]) -> dict[str, NDArray[np.float64]] | None:
    """Return the numbers of a table at once, as `numbers` would; None where they are others than finite floats, integers and null."""
    if not names or not len(table) or not _are_numbers(table, names):
        return None
    (batch,) = table.select(names).combine_chunks().to_batches()
    values_FN = np.asarray(batch.to_tensor(null_to_nan=True, row_major=False).to_numpy().T, np.float64)
    return None if np.isinf(values_FN).any() else dict(zip(names, values_FN, strict=True))


def _is_text(table: pa.Table, name: str) -> bool:
    place = table.schema.get_field_index(name)
    return place >= 0 and bool(pa.types.is_string(table.field(place).type))


def _derived(
    records: Sequence[Mapping[str, Any]], typed: Sequence[Derivation], faults: Faults
) -> dict[str, Column]:
    """Derive through the very table that ingest would make of the records."""
    columns: dict[str, Column] = {}
    for column in typed:
        table = to_table([{column.name: record.get(column.name)} for record in records])
        columns |= derived(table, [column], _report(faults, table, column.name, column.kind, column.length))
    return columns


def _report(faults: Faults, table: pa.Table, name: str, kind: str, length: int = 0) -> Report:
    """Return what takes the bad rows of a column of a table."""

    def value(row: int) -> Any:
        cell = table.column(name)[row]
        try:
            return cell.as_py()
        except (ValueError, OverflowError):  # a time that Python cannot hold
            return str(cell.cast(pa.string()))

    def report(bad: Mask, reason: str) -> None:
        if bad.any():
            faults.add(name, np.flatnonzero(bad).tolist(), reason, value, _FIXES[kind].format(length))

    return report


def _numbers(column: Sequence[Any], name: str, faults: Faults) -> NDArray[np.float64]:
    values = np.empty(len(column))
    wrong, infinite = list[int](), list[int]()
    for row, value in enumerate(column):
        number = value if type(value) is float else _number(value)
        values[row] = math.nan if number is None else number
        if number is None:
            wrong.append(row)
        elif math.isinf(number):
            infinite.append(row)
    what, fix = f"feature {name!r}", _FIXES["number"]
    for rows, reason in ((wrong, f"{what} is not a number"), (infinite, f"{what} is infinite")):
        faults.add(name, rows, reason, column.__getitem__, fix)
    return values


def _number(value: Any) -> float | None:
    """Return a value as ingest reads it, null as NaN; None for what is no number."""
    if value is None:
        return math.nan
    try:
        if not isinstance(value, str):
            return float(value) if isinstance(value, int | float | Decimal) else None
        text = value.strip().lower()
        if text in BLANK:
            return math.nan
        text = TRUTH.get(text, text)
        number = (
            float(text) if text.isascii() and "_" not in text else math.nan
        )  # float() reads more than ingest
    except OverflowError:
        return math.inf
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _categories(column: Sequence[Any]) -> Categorical:
    if set(map(type, column)) == {str}:
        index = dict.fromkeys(column)
        for code, text in enumerate(index):
            index[text] = code
        return Categorical(np.fromiter(map(index.__getitem__, column), np.int32, len(column)), tuple(index))
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
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
