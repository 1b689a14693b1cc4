"""Cells: columns of any Arrow type as the numbers, texts and times that a schema asks for; what cannot be read is reported by row.

The same value is read the same way whatever stands beside it: 1, 1.0 and "1" are one number and one text in JSON, CSV and Parquet.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cls.columns.arrow import DICTIONARY, to_column, to_floats
from cls.times import to_us
from detectors.columns import Column
from detectors.derive import NO_TIME

Mask = NDArray[np.bool_]
Report = Callable[[Mask, str], None]  # takes which rows are bad, and why
EARLIEST_US, LATEST_US = to_us(datetime(1700, 1, 1, tzinfo=UTC)), to_us(datetime(9000, 1, 1, tzinfo=UTC))
TRUTH = {"true": "1", "false": "0"}
BLANK = frozenset(("", "nan", "null", "na"))  # words that mean missing where a text is no text


def column_of(table: pa.Table, name: str) -> pa.Array | None:
    """Return a column as one plain array, None if the table lacks it."""
    if name not in table.column_names:
        return None
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    combined = column.combine_chunks()
    return (
        combined
        if isinstance(combined, pa.Array)
        else pa.concat_arrays(combined.chunks or [pa.array([], column.type)])
    )


def _is_scalar(kind: pa.DataType) -> bool:
    nested = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary)
    return not any(test(kind) for test in nested)


def texts(column: pa.Array) -> list[str | None]:
    """Return values as text; 1 and 1.0 are the same text, so that CSV, JSON and Parquet agree."""
    if pa.types.is_floating(column.type):
        return [
            None if v is None or v != v else str(int(v)) if v == int(v) else repr(v) for v in _finite(column)
        ]
    if pa.types.is_boolean(column.type):
        return [None if v is None else str(v).lower() for v in column.to_pylist()]
    if not _is_scalar(column.type):
        return [None] * len(column)
    return list(pc.cast(column, pa.string()).to_pylist())


def _finite(column: pa.Array) -> list[float | None]:
    return [v if v is not None and abs(v) != float("inf") else None for v in column.to_pylist()]


def numbers(table: pa.Table, name: str, report: Report, what: str) -> NDArray[np.float64]:
    """Return float64 with NaN for missing; text that is a number or a truth value counts as one."""
    column = column_of(table, name)
    if column is None or pa.types.is_null(column.type):
        return np.full(table.num_rows, np.nan)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        words = column.to_pandas().str.strip().str.lower().replace(TRUTH)
        values = pd.to_numeric(words, errors="coerce").to_numpy(np.float64, copy=True)
        blank = words.isna() | words.isin(BLANK)
        report(np.isnan(values) & ~blank.to_numpy(bool), f"{what} is not a number")
    elif (
        pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
        or pa.types.is_boolean(column.type)
    ):
        values = to_floats(pc.cast(column, pa.int8()) if pa.types.is_boolean(column.type) else column).copy()
    elif pa.types.is_decimal(column.type):
        values = to_floats(column).copy()
    else:
        values = np.full(table.num_rows, np.nan)
        report(np.asarray(column.is_valid()), f"{what} is not a number but {column.type}")
    report(np.isinf(values), f"{what} is infinite")
    return np.asarray(values, np.float64)


def categories(table: pa.Table, name: str) -> Column:
    """Return dictionary codes, -1 for missing."""
    column = column_of(table, name)
    if column is None:
        return to_column(pa.nulls(table.num_rows, DICTIONARY))
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        column = pa.array(texts(column), pa.string())
    return to_column(pc.dictionary_encode(pc.cast(column, pa.string())).cast(DICTIONARY))


def times(table: pa.Table, name: str, report: Report, latest_us: int) -> NDArray[np.int64]:
    """Return microseconds since the epoch: timestamps, ISO 8601 text (UTC unless it says otherwise) or epoch seconds."""
    column = column_of(table, name)
    if column is None:
        report(np.ones(table.num_rows, bool), f"column {name!r} is missing")
        return np.full(table.num_rows, NO_TIME)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        cast = pc.cast(column, pa.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False)
        values = np.asarray(
            pc.fill_null(pc.cast(cast, pa.int64()), NO_TIME).to_numpy(zero_copy_only=False)
        ).copy()
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values = _from_seconds(to_floats(column))
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        words = column.to_pandas()
        values = _from_seconds(pd.to_numeric(words, errors="coerce").to_numpy(np.float64))
        parsed = pd.to_datetime(words.where(values == NO_TIME), utc=True, errors="coerce", format="ISO8601")
        written = parsed.notna().to_numpy()
        values[written] = parsed.dt.as_unit("us").astype("int64").to_numpy()[written]
    else:
        values = np.full(table.num_rows, NO_TIME)
    values[(values < EARLIEST_US) | (values > LATEST_US)] = NO_TIME  # no calendar has them
    report(values == NO_TIME, f"{name!r} is not a time (ISO 8601, timestamp or epoch seconds)")
    report(values > latest_us, f"{name!r} lies in the future")
    return np.asarray(values, np.int64)


def _from_seconds(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    usable = np.abs(seconds) < 1e11
    values = np.full(len(seconds), NO_TIME)
    values[usable] = np.rint(seconds[usable] * 1e6).astype(np.int64)
    return values
