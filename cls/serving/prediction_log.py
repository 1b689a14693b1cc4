"""Predictions on their way back into the log: answered at once, made durable in groups by a thread, bounded in memory.

Taking rows costs as little as appending to a list; the thread makes tables of them.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from threading import Condition, Thread
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cls.columns.records import table_of
from cls.config import SchemaConfig
from cls.errors import Temporary
from cls.ingest import PREDICTION, UNCERTAINTY, VERSION
from cls.logging import get_logger
from detectors.columns import Categorical, Column, Columns, concat
from storage.inbox import Inbox

FLUSH_SECONDS = 0.05
FLUSH_ROWS = 2_000  # after which a group goes out before its time: each costs two syncs and a transaction, however small
CAPACITY_ROWS = 50_000
_REQUEST_ROWS = 5_000  # rows of one request to the inbox, about
_FEW_ROWS = 16  # read at once, below which joining their columns costs more than making others of the records
_log = get_logger(__name__)


@dataclass(frozen=True, eq=False)
class Answered:
    """Rows that one version answered."""

    rows: Any  # records, or a pyarrow.Table
    prediction: NDArray[np.float64]  # (N,) in target units, or indices of classes
    uncertainty: NDArray[np.float64]  # (N,) 1 - the probability of the class, NaN for regression
    version: int
    columns: Columns | None = None  # features of records, read already: nobody has to read them twice

    def __len__(self) -> int:
        return len(self.prediction)


class PredictionLog:
    """Buffers rows and puts them into the inbox as events.

    Parameters
    ----------
    inbox
        Where they go.
    schemas
        What an event consists of, by stream.
    capacity_rows
        Rows held while the inbox does not answer; more are not taken.
    """

    def __init__(
        self, inbox: Inbox, schemas: Mapping[str, SchemaConfig], capacity_rows: int = CAPACITY_ROWS
    ) -> None:
        self._inbox = inbox
        self._names = {stream: logged_names(schema) for stream, schema in schemas.items()}
        self._capacity_rows = capacity_rows
        self._producer = f"serve@{socket.gethostname()}:{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._sequence = count()
        self._waiting: dict[str, deque[Answered]] = {}
        self._held = 0  # rows buffered or on their way
        self.lost = 0  # rows for which there was no room, or that could not be written
        self._changed = Condition()
        self._deadline: float | None = None  # monotonic time at which closing gives up
        self._thread = Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    @property
    def held(self) -> int:
        """Rows that wait to be written."""
        return self._held

    def offer(self, stream: str, rows: Answered) -> bool:
        """Take rows for the log, all or, if there is no room, none; returns whether it did."""
        with self._changed:
            if self._deadline is not None or self._held + len(rows) > self._capacity_rows:
                self.lost += len(rows)
                return False
            if self._held > _REQUEST_ROWS:  # the inbox is slow: hold no more of them than will be written
                rows = self._trimmed(stream, rows)
            self._waiting.setdefault(stream, deque()).append(rows)
            before, self._held = self._held, self._held + len(rows)
            if before < FLUSH_ROWS <= self._held:
                self._changed.notify()
            return True

    def close(self, patience_seconds: float = 10.0) -> int:
        """Write out what is held and stop; returns the rows that could not be written in time."""
        with self._changed:
            self._deadline = time.monotonic() + patience_seconds
            self._changed.notify()
        self._thread.join()
        return self._held

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._deadline is None:
                    self._changed.wait_for(lambda: self._held >= FLUSH_ROWS or self._deadline, FLUSH_SECONDS)
                closing = self._deadline is not None
                groups = [(stream, self._group(rows)) for stream, rows in self._waiting.items() if rows]
            for stream, group in groups:
                if not self._write(stream, group):
                    _log.error("predictions not logged", stream=stream, rows=self._held)
                    return
            if closing and not groups:
                return

    def _trimmed(self, stream: str, rows: Answered) -> Answered:
        if isinstance(rows.rows, pa.Table):
            return rows
        names = self._names[stream]
        records = [{name: record[name] for name in names if name in record} for record in rows.rows]
        return Answered(records, rows.prediction, rows.uncertainty, rows.version, rows.columns)

    @staticmethod
    def _group(waiting: deque[Answered]) -> list[Answered]:
        """Take the next rows that make one table: records, or tables of the same columns."""
        group, rows = [waiting.popleft()], 0
        kind = _kind(group[0])
        while waiting and (rows := rows + len(group[-1])) < _REQUEST_ROWS:
            if _kind(waiting[0]) != kind:
                break
            group.append(waiting.popleft())
        return group

    def _write(self, stream: str, group: list[Answered]) -> bool:
        """Write a group, or lose it if that is impossible; False when closing ran out of patience."""
        rows = sum(map(len, group))
        try:
            done, lost = self._put(stream, log_table(group, self._names[stream])), 0
        except Exception as error:  # noqa: BLE001 - one group must not end the log of all streams
            _log.error("predictions lost", stream=stream, rows=rows, error=str(error), exc_info=error)
            done, lost = True, rows
        with self._changed:
            self.lost += lost
            self._held -= rows if done else 0
        return done

    def _put(self, stream: str, table: pa.Table) -> bool:
        """Put a table into the inbox, however often it takes."""
        sequence, failed = next(self._sequence), False
        while True:
            try:
                self._inbox.put(stream, self._producer, sequence, "events", table)
            except (Temporary, TimeoutError) as error:
                if not failed:
                    _log.warning("predictions wait to be logged", stream=stream, error=str(error))
                failed = True
                with self._changed:
                    if self._deadline is not None and time.monotonic() >= self._deadline:
                        return False
                    self._changed.wait(0.5)
            else:
                return True


def logged_names(schema: SchemaConfig) -> tuple[str, ...]:
    """Return the columns of an event, as senders name them."""
    group = (schema.group,) if schema.group else ()
    return tuple(dict.fromkeys((schema.key, schema.event_time, *group, *schema.raw_features)))


def log_table(group: Sequence[Answered], names: tuple[str, ...]) -> pa.Table:
    """Return rows as a table of events, each with its prediction, a classifier's uncertainty, and the version that made them.

    Records' features that were read for the prediction are written as they were read, or as they were sent: ingest reads both in the same
    way. Tables are written as they came; they must have the same columns.
    """
    if isinstance(group[0].rows, pa.Table):
        tables = [_selected(one.rows, names) for one in group]
        table, read = pa.concat_tables(tables).unify_dictionaries(), dict[str, pa.Array]()
    else:
        records = list(chain.from_iterable(one.rows for one in group))
        read = _read_already(group, names)
        table = table_of(records, [name for name in names if name not in read])
    columns = dict(zip(table.column_names, table.columns, strict=True)) | read
    columns[PREDICTION] = pa.array(np.concatenate([one.prediction for one in group]))
    uncertainty = np.concatenate([one.uncertainty for one in group])
    if np.isfinite(uncertainty).any():  # a classifier's
        columns[UNCERTAINTY] = pa.array(uncertainty)
    versions = np.array([one.version for one in group], np.int64)
    columns[VERSION] = pa.array(versions.repeat([len(one) for one in group]))
    return pa.table(columns)


def _kind(one: Answered) -> pa.Schema | None:
    return one.rows.schema if isinstance(one.rows, pa.Table) else None


def _selected(table: pa.Table, names: tuple[str, ...]) -> pa.Table:
    return table.select([name for name in names if name in table.column_names])


def _read_already(group: Sequence[Answered], names: tuple[str, ...]) -> dict[str, pa.Array]:
    """Return the columns that all rows of a group have been read to; none where many small batches would have to be joined."""
    found = [one.columns for one in group if one.columns is not None]
    if len(found) < len(group) or sum(map(len, group)) < _FEW_ROWS * len(group):
        return {}
    common = [name for name in names if all(name in columns for columns in found)]
    joined = concat([{name: columns[name] for name in common} for columns in found]) if common else {}
    return {name: _array(column) for name, column in joined.items()}


def _array(column: Column) -> pa.Array:
    if isinstance(column, Categorical):
        codes = pa.array(column.codes, mask=column.codes < 0)
        return pa.array(column.vocabulary, pa.string()).take(codes)
    return pa.array(column, from_pandas=True)  # NaN is null
