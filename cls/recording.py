"""Recordings: a stream in one file or table, and how it is replayed: events at their time, labels when they land, nothing before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from cls.columns.arrow import to_floats
from cls.columns.cells import LATEST_US, Mask, times
from cls.config import StreamConfig
from cls.errors import BadData
from cls.times import EPOCH, from_us, to_us
from detectors.derive import NO_TIME

GRAIN = timedelta(minutes=15)  # how soon after an update takes effect the replay looks again

READERS = {
    ".parquet": pyarrow.parquet.read_table,
    ".csv": pyarrow.csv.read_csv,
    ".ndjson": pyarrow.json.read_json,
    ".jsonl": pyarrow.json.read_json,
}


def read_recording(path: Path) -> pa.Table:
    """Return a whole file as a table; raises `BadData` naming the file and the fault."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise BadData(f"{path}: unknown kind of file; use one of {', '.join(READERS)}")
    try:
        table = reader(path)
    except (OSError, pa.ArrowException) as error:
        raise BadData(f"{path}: cannot be read: {error}") from error
    if table.num_rows == 0:
        raise BadData(f"{path}: there are no rows in it")
    return table


class Recording:
    """A recorded stream, handed out in order of time.

    Parameters
    ----------
    table
        With key, event time, features and target; with label times if the schema names them.
    settings
        The stream's configuration.

    Raises
    ------
    BadData
        If a column that the replay needs is not there.
    """

    def __init__(self, table: pa.Table, settings: StreamConfig) -> None:
        schema = settings.columns
        needed = [schema.key, schema.event_time, schema.target] + (
            [schema.label_time] if schema.label_time else []
        )
        if absent := [name for name in needed if name not in table.column_names]:
            raise BadData(
                f"the recording has no column {absent[0]!r}; it has {', '.join(table.column_names)}"
            )
        event_us = times(table, schema.event_time, _unreported, LATEST_US)
        if not (event_us != NO_TIME).any():
            raise BadData(f"no row of the recording has a time in {schema.event_time!r}")
        event_us = np.where(
            event_us == NO_TIME, event_us[event_us != NO_TIME].min(), event_us
        )  # ingest refuses them
        label_us = event_us
        if schema.label_time:
            landed = times(table, schema.label_time, _unreported, LATEST_US)
            label_us = np.where(landed == NO_TIME, event_us, landed)
        target = table.column(schema.target)
        known = np.asarray(pc.is_valid(target))
        if pa.types.is_floating(target.type):
            known &= np.isfinite(to_floats(target))
        event_order = np.argsort(event_us, kind="stable")
        label_order = np.flatnonzero(known)[np.argsort(label_us[known], kind="stable")]
        hidden = [schema.target] + ([schema.label_time] if schema.label_time else [])
        self._events = table.drop_columns(hidden).take(pa.array(event_order))
        names = {schema.key: table.column(schema.key), schema.target: target}
        labels = pa.table(names | {"label_time": pa.array(label_us, pa.timestamp("us", tz="UTC"))})
        self._labels = labels.take(pa.array(label_order))
        self._event_us, self._label_us = event_us[event_order], label_us[label_order]
        self._events_given = self._labels_given = 0
        self.start = from_us(self._event_us[0])
        last = max(self._event_us[-1], self._label_us[-1] if len(self._label_us) else self._event_us[-1])
        self.end = from_us(last) + timedelta(microseconds=1)

    def until(self, now: datetime) -> tuple[pa.Table, pa.Table]:
        """Return the events (without target) and the labels that fall between the last call and `now`."""
        events = int(np.searchsorted(self._event_us, to_us(now)))
        labels = int(np.searchsorted(self._label_us, to_us(now)))
        handed = (
            self._events.slice(self._events_given, events - self._events_given),
            self._labels.slice(self._labels_given, labels - self._labels_given),
        )
        self._events_given, self._labels_given = events, labels
        return handed


def next_edge(now: datetime, step: timedelta, waiting: Sequence[datetime]) -> datetime:
    """Return when to look next: at the next multiple of `step`, or right after a waiting update takes effect."""
    edge = EPOCH + ((now - EPOCH) // step + 1) * step
    return min([edge, *(time + GRAIN for time in waiting if time + GRAIN > now)])


def _unreported(_mask: Mask, _reason: str) -> None:
    """Leave judging to ingest, which sees the rows again."""
