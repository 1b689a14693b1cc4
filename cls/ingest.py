"""Ingest: raw Arrow in, valid rows out; what is not valid leaves with its reason.

Whole columns are checked at once; a row is looked at only when it is bad. The same row is judged the same way in every batch: a
feature column that a batch lacks is missing in its rows, not a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from cls.columns.cells import Mask, categories, column_of, numbers, texts, times
from cls.columns.typed import derived
from cls.config import StreamConfig
from cls.domain import Batch, DeadLetter, Json, Labels, Role
from detectors.columns import Categorical, Column, Columns, take
from detectors.derive import NO_TIME

PREDICTION, VERSION = "cls_prediction", "cls_version"  # an event may bring what was served for it
UNCERTAINTY = "cls_uncertainty"  # for classification, with the prediction: 1 - the probability of its class
KEY_LIMIT = 255
VERSION_LIMIT = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Intake:
    """What a raw batch of events comes to."""

    batch: Batch
    labels: Labels  # those that came in the events
    dead: list[DeadLetter]
    group: list[str]  # of each row of the batch: by which it got its role, and was routed


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
    time_us = times(table, schema.event_time, faults.add, latest_us)
    columns: dict[str, Column] = {
        name: numbers(table, name, faults.add, f"feature {name!r}") for name in schema.numeric
    }
    columns |= {name: categories(table, name) for name in schema.categorical}
    columns |= derived(table, schema.derivations, faults.add)
    faults.add(
        _featureless(columns, table.num_rows),
        f"none of the features is there: {', '.join(schema.raw_features)}",
    )
    prediction = numbers(table, PREDICTION, faults.add, PREDICTION)
    version = np.nan_to_num(numbers(table, VERSION, faults.add, VERSION), nan=0.0, posinf=0.0, neginf=0.0)
    faults.add((version < 0) | (version > VERSION_LIMIT), f"{VERSION} is not the number of a version")
    uncertainty = _uncertainty(table, stream, faults)
    target = _targets(table, stream, faults)
    label_us = time_us
    if schema.label_time and schema.label_time in table.column_names:
        landed = times(table, schema.label_time, _Faults(table.num_rows).add, np.iinfo(np.int64).max)
        written = np.asarray(table.column(schema.label_time).is_valid())
        faults.add((landed == NO_TIME) & written, f"{schema.label_time!r} is not a time")
        label_us = np.where(landed == NO_TIME, time_us, landed)
    group = _keys(table, schema.group, faults) if schema.group else key

    repeated = _repeated(key, faults.keep(), known(key))  # last: a bad row does not take its key
    # One that is there already may still bring its label: /predict has logged the event, say.
    faults.add(repeated & ~np.isfinite(target), f"an event with this {schema.key!r} is in the log already")
    keep = faults.keep()
    labelled = keep[np.isfinite(target[keep])]
    keep = keep[~repeated[keep]]
    batch = Batch(
        take(columns, keep),
        [key[row] for row in keep],
        time_us[keep],
        roles([group[row] for row in keep]),
        prediction[keep],
        version[keep].astype(np.int64),
        None if uncertainty is None else uncertainty[keep],
    )
    labels = Labels([key[row] for row in labelled], target[labelled], label_us[labelled])
    return Intake(batch, labels, faults.letters(table, "events"), [group[row] for row in keep])


def take_labels(
    table: pa.Table, stream: StreamConfig, now_us: int | None, latest_us: int
) -> tuple[Labels, list[DeadLetter]]:
    """Check a raw table of labels: the key, the target, and optionally the label time (by default `now_us`, the stream's time; 0 before the first event)."""
    schema = stream.columns
    faults = _Faults(table.num_rows)
    key = _keys(table, schema.key, faults)
    target = _targets(table, stream, faults)
    faults.add(~np.isfinite(target), f"label {schema.target!r} is missing")
    column = next(
        (name for name in (schema.label_time, "label_time") if name and name in table.column_names), None
    )
    if column is not None:
        time_us = times(table, column, faults.add, latest_us)
    else:
        time_us = np.full(table.num_rows, now_us or 0, np.int64)
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


def _keys(table: pa.Table, name: str, faults: _Faults) -> list[str]:
    column = column_of(table, name)
    if column is None:
        faults.add(np.ones(table.num_rows, bool), f"column {name!r} is missing")
        return [""] * table.num_rows
    written = texts(column)
    faults.add(np.array([not text for text in written], bool), f"{name!r} is empty")
    long = np.array([text is not None and len(text) > KEY_LIMIT for text in written], bool)
    faults.add(long, f"{name!r} is longer than {KEY_LIMIT} characters")
    faults.add(
        np.array([text is not None and "\0" in text for text in written], bool),
        f"{name!r} holds a NUL character",
    )
    return [text or "" for text in written]


def _repeated(keys: list[str], rows: NDArray[np.int64], known: Container[str]) -> Mask:
    """Return which of some rows have a key that is in the log, or that an earlier one of them has."""
    seen: set[str] = set()
    repeated = np.zeros(len(keys), bool)
    for row in rows.tolist():
        repeated[row] = keys[row] in seen or keys[row] in known
        seen.add(keys[row])
    return repeated


def _featureless(columns: Columns, rows: int) -> Mask:
    """Return the rows in which every feature is missing."""
    missing = np.ones(rows, bool)
    for column in columns.values():
        missing &= column.codes < 0 if isinstance(column, Categorical) else np.isnan(column)
    return missing


def _uncertainty(table: pa.Table, stream: StreamConfig, faults: _Faults) -> NDArray[np.float64] | None:
    if stream.task == "regression" or UNCERTAINTY not in table.column_names:
        return None
    uncertainty = numbers(table, UNCERTAINTY, faults.add, UNCERTAINTY)
    faults.add((uncertainty < 0) | (uncertainty > 1), f"{UNCERTAINTY} is not between 0 and 1")
    return uncertainty


def _targets(table: pa.Table, stream: StreamConfig, faults: _Faults) -> NDArray[np.float64]:
    """Return the target, the class's index for classification, NaN where there is none."""
    name = stream.columns.target
    if stream.task == "regression":
        return numbers(table, name, faults.add, f"target {name!r}")
    column = column_of(table, name)
    if column is None:
        return np.full(table.num_rows, np.nan)
    index = {label: float(i) for i, label in enumerate(stream.columns.classes)}
    written = texts(column)
    unknown = np.array([text is not None and text not in index for text in written], bool)
    faults.add(unknown, f"target {name!r} is none of the classes {', '.join(index)}")
    return np.array([np.nan if text is None else index.get(text, np.nan) for text in written])


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
