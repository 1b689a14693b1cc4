"""Ingest: raw Arrow in, valid rows out; what is not valid leaves with its reason.

Whole columns are checked at once; a row is looked at only when it is bad. The same row is judged the same way in every batch: a
feature column that a batch lacks is missing in its rows, not a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cls.arrow import DICTIONARY, to_column, to_floats
from cls.config import StreamConfig
from cls.domain import Batch, DeadLetter, Json, Labels, Role
from cls.times import to_us
from detectors.columns import Column, take

Mask = NDArray[np.bool_]
PREDICTION, VERSION = (
    "cls_prediction",
    "cls_version",
)  # an event may bring the prediction that was served for it
KEY_LIMIT = 255
VERSION_LIMIT = 2**31 - 1
EARLIEST_US, LATEST_US = to_us(datetime(1, 1, 2, tzinfo=UTC)), to_us(datetime(9999, 12, 30, tzinfo=UTC))


@dataclass(frozen=True, eq=False)
class Intake:
    """What a raw batch of events comes to."""

    batch: Batch
    labels: Labels  # those that came in the events
    dead: list[DeadLetter]


class _Faults:
    """Collects the first reason for each bad row."""

    def __init__(self, rows: int) -> None:
        self.reasons: dict[int, str] = {}
        self.rows = rows

    def add(self, mask: Mask, reason: str) -> None:
        for row in np.flatnonzero(mask):
            self.reasons.setdefault(int(row), reason)

    def keep(self) -> NDArray[np.int64]:
        good = np.ones(self.rows, bool)
        good[list(self.reasons)] = False
        return np.flatnonzero(good)

    def letters(self, table: pa.Table, kind: str) -> list[DeadLetter]:
        return [DeadLetter(reason, _record(table, row), kind) for row, reason in sorted(self.reasons.items())]


def take_events(
    table: pa.Table, stream: StreamConfig, latest_us: int, known: Callable[[list[str]], Container[str]]
) -> Intake:
    """Check a raw table of events.

    Parameters
    ----------
    table
        As it came: any column types, any order, columns beyond the schema are ignored.
    stream
        With the schema.
    latest_us
        Event times after this one (microseconds since the epoch) are refused: one wrong clock must not move the stream's time.
    known
        Returns which of some keys are in the log already.
    """
    schema = stream.columns
    faults = _Faults(table.num_rows)
    key = _keys(table, schema.key, faults)
    faults.add(_repeated(key, known(key)), f"an event with this {schema.key!r} is in the log already")
    time_us = _times(table, schema.event_time, faults, latest_us)
    columns: dict[str, Column] = {
        name: _number(table, name, faults, f"feature {name!r}") for name in schema.numeric
    }
    columns |= {name: _category(table, name) for name in schema.categorical}
    if table.num_rows and not any(name in table.column_names for name in schema.features):
        faults.add(
            np.ones(table.num_rows, bool), f"none of the features is there: {', '.join(schema.features)}"
        )
    prediction = _number(table, PREDICTION, faults, PREDICTION)
    version = np.nan_to_num(_number(table, VERSION, faults, VERSION), nan=0.0, posinf=0.0, neginf=0.0)
    faults.add((version < 0) | (version > VERSION_LIMIT), f"{VERSION} is not the number of a version")
    target = _targets(table, stream, faults)
    label_us = time_us
    if schema.label_time and schema.label_time in table.column_names:
        landed = _times(table, schema.label_time, _Faults(table.num_rows), np.iinfo(np.int64).max)
        label_us = np.where(landed == _NO_TIME, time_us, landed)
    group = _keys(table, schema.group, faults) if schema.group else key

    keep = faults.keep()
    labelled = keep[np.isfinite(target[keep])]
    batch = Batch(
        take(columns, keep),
        [key[row] for row in keep],
        time_us[keep],
        roles([group[row] for row in keep]),
        prediction[keep],
        version[keep].astype(np.int64),
    )
    labels = Labels([key[row] for row in labelled], target[labelled], label_us[labelled])
    return Intake(batch, labels, faults.letters(table, "events"))


def take_labels(
    table: pa.Table, stream: StreamConfig, now_us: int | None, latest_us: int
) -> tuple[Labels, list[DeadLetter]]:
    """Check a raw table of labels: the key, the target, and optionally the label time (by default `now_us`, the stream's time)."""
    schema = stream.columns
    faults = _Faults(table.num_rows)
    key = _keys(table, schema.key, faults)
    target = _targets(table, stream, faults)
    faults.add(~np.isfinite(target), f"label {schema.target!r} is missing")
    column = next(
        (name for name in (schema.label_time, "label_time") if name and name in table.column_names), None
    )
    if column is not None:
        time_us = _times(table, column, faults, latest_us)
    else:
        time_us = np.full(table.num_rows, latest_us if now_us is None else now_us, np.int64)
    keep = faults.keep()
    return Labels([key[row] for row in keep], target[keep], time_us[keep]), faults.letters(table, "labels")


def roles(groups: list[str]) -> NDArray[np.int8]:
    """Return each row's permanent role by the hash of its group key: 80% train, 10% tune, 10% gate.

    CRC-32 of the UTF-8 bytes: fast, uniform enough for ten buckets, and the same in every version of everything.
    """
    bucket = np.fromiter((crc32(group.encode()) for group in groups), np.uint32, len(groups)) % 10
    role = np.full(len(groups), Role.TRAIN, np.int8)
    role[bucket == 8] = Role.TUNE
    role[bucket == 9] = Role.GATE
    return role


def bury(table: pa.Table, kind: str, reason: str) -> list[DeadLetter]:
    """Return every row of a batch as a dead letter."""
    return [DeadLetter(reason, _record(table, row), kind) for row in range(table.num_rows)]


def _record(table: pa.Table, row: int) -> Json:
    try:
        return _plain(table.slice(row, 1).to_pylist()[0])
    except (ValueError, OverflowError):  # a timestamp that Python cannot hold
        return {name: str(table.column(name)[row].cast(pa.string())) for name in table.column_names}


_NO_TIME = np.iinfo(np.int64).min


def _column(table: pa.Table, name: str) -> pa.Array | None:
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


def _scalar(kind: pa.DataType) -> bool:
    nested = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary)
    return not any(test(kind) for test in nested)


def _texts(column: pa.Array) -> list[str | None]:
    """Return values as text; 1 and 1.0 are the same text, so that CSV, JSON and Parquet agree."""
    if pa.types.is_floating(column.type):
        return [
            None if v is None or v != v else str(int(v)) if v == int(v) else repr(v) for v in _finite(column)
        ]
    if pa.types.is_boolean(column.type):
        return [None if v is None else str(v).lower() for v in column.to_pylist()]
    if not _scalar(column.type):
        return [None] * len(column)
    return list(pc.cast(column, pa.string()).to_pylist())


def _finite(column: pa.Array) -> list[float | None]:
    return [v if v is not None and abs(v) != float("inf") else None for v in column.to_pylist()]


def _keys(table: pa.Table, name: str, faults: _Faults) -> list[str]:
    column = _column(table, name)
    if column is None:
        faults.add(np.ones(table.num_rows, bool), f"column {name!r} is missing")
        return [""] * table.num_rows
    texts = _texts(column)
    faults.add(np.array([not text for text in texts], bool), f"{name!r} is empty")
    long = np.array([text is not None and len(text) > KEY_LIMIT for text in texts], bool)
    faults.add(long, f"{name!r} is longer than {KEY_LIMIT} characters")
    faults.add(
        np.array([text is not None and "\0" in text for text in texts], bool),
        f"{name!r} holds a NUL character",
    )
    return [text or "" for text in texts]


def _repeated(keys: list[str], known: Container[str]) -> Mask:
    seen: set[str] = set()
    repeated = np.zeros(len(keys), bool)
    for row, key in enumerate(keys):
        repeated[row] = key in seen or key in known
        seen.add(key)
    return repeated


def _number(table: pa.Table, name: str, faults: _Faults, what: str) -> NDArray[np.float64]:
    column = _column(table, name)
    if column is None or pa.types.is_null(column.type):
        return np.full(table.num_rows, np.nan)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        series = column.to_pandas()
        values = pd.to_numeric(series.str.strip(), errors="coerce").to_numpy(np.float64, copy=True)
        blank = series.isna() | series.str.strip().str.lower().isin(["", "nan", "null", "na"])
        faults.add(np.isnan(values) & ~blank.to_numpy(bool), f"{what} is not a number")
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
        faults.add(np.asarray(column.is_valid()), f"{what} is not a number but {column.type}")
    faults.add(np.isinf(values), f"{what} is infinite")
    return np.asarray(values, np.float64)


def _category(table: pa.Table, name: str) -> Column:
    column = _column(table, name)
    if column is None:
        return to_column(pa.nulls(table.num_rows, DICTIONARY))
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        column = pa.array(_texts(column), pa.string())
    return to_column(pc.dictionary_encode(pc.cast(column, pa.string())).cast(DICTIONARY))


def _times(table: pa.Table, name: str, faults: _Faults, latest_us: int) -> NDArray[np.int64]:
    """Return microseconds since the epoch: timestamps, ISO 8601 text (UTC unless it says otherwise) or epoch seconds."""
    column = _column(table, name)
    if column is None:
        faults.add(np.ones(table.num_rows, bool), f"column {name!r} is missing")
        return np.full(table.num_rows, _NO_TIME)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        cast = pc.cast(column, pa.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False)
        values = np.asarray(
            pc.fill_null(pc.cast(cast, pa.int64()), _NO_TIME).to_numpy(zero_copy_only=False)
        ).copy()
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        seconds = to_floats(column)
        usable = np.abs(seconds) < 1e11
        values = np.full(len(seconds), _NO_TIME)
        values[usable] = np.rint(seconds[usable] * 1e6).astype(np.int64)
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        parsed = pd.to_datetime(column.to_pandas(), utc=True, errors="coerce", format="ISO8601").dt.as_unit(
            "us"
        )
        values = parsed.astype("int64").to_numpy(copy=True)
        values[parsed.isna().to_numpy()] = _NO_TIME
    else:
        values = np.full(table.num_rows, _NO_TIME)
    values[(values < EARLIEST_US) | (values > LATEST_US)] = _NO_TIME  # no calendar has them
    faults.add(values == _NO_TIME, f"{name!r} is not a time (ISO 8601, timestamp or epoch seconds)")
    faults.add(values > latest_us, f"{name!r} lies in the future")
    return np.asarray(values, np.int64)


def _targets(table: pa.Table, stream: StreamConfig, faults: _Faults) -> NDArray[np.float64]:
    """Return the target, the class's index for classification, NaN where there is none."""
    name = stream.columns.target
    if stream.task == "regression":
        return _number(table, name, faults, f"target {name!r}")
    column = _column(table, name)
    if column is None:
        return np.full(table.num_rows, np.nan)
    index = {label: float(i) for i, label in enumerate(stream.columns.classes)}
    texts = _texts(column)
    unknown = np.array([text is not None and text not in index for text in texts], bool)
    faults.add(unknown, f"target {name!r} is none of the classes {', '.join(index)}")
    return np.array([np.nan if text is None else index.get(text, np.nan) for text in texts])


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """Make a record storable as JSON: what JSON cannot say becomes text."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and (value != value or abs(value) == float("inf")):
            return str(value)
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list):
            return [plain(v) for v in value]
        if isinstance(value, pd.Timestamp) or hasattr(value, "isoformat"):
            return value.isoformat()
        return value if isinstance(value, str | int | float | bool) or value is None else str(value)

    return {name: plain(value) for name, value in record.items()}
