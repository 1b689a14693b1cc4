"""The sample log: events, labels and predictions of a stream as immutable segments with a manifest in SQL.

Events and predictions are counted by event position, labels by label position (the order in which they landed). A label names
the position of its event, so that joining is an index operation. Writing is two steps: a file that nobody refers to yet,
then, in the caller's transaction, the manifest row that makes it exist.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, bindparam, func, insert, select

from cls.columns.arrow import from_columns, to_columns, to_floats
from cls.domain import Batch, Labelled
from cls.ports import Events, Predictions, SegmentStore
from cls.times import from_us
from detectors.columns import Categorical, Column, Columns, concat, rows_of
from storage.db import reading
from storage.tables import segments

KEY, TIME, ROLE, PREDICTION, VERSION = "cls:key", "cls:time", "cls:role", "cls:prediction", "cls:version"
POSITION, VALUE, UNCERTAINTY = "cls:position", "cls:value", "cls:uncertainty"
SHADOW, SHADOW_VERSION = "cls:shadow", "cls:shadow_version"
PARTITION = 0  # one partition per stream until a connector brings more


@dataclass(frozen=True)
class Segment:
    """A manifest row."""

    stream: str
    kind: str
    start: int
    stop: int
    path: str
    sha256: str
    max_position: int | None
    time_from: datetime | None
    time_to: datetime | None


_COLUMNS = tuple(segments.c[name] for name in Segment.__dataclass_fields__)
_MINE = (
    segments.c.stream == bindparam("stream"),
    segments.c.kind == bindparam("kind"),
    segments.c.partition == PARTITION,
)
_RECORD = insert(segments)
_NEXT = select(segments.c.stop).where(*_MINE).order_by(segments.c.start.desc()).limit(1)
_AT = select(*_COLUMNS).where(*_MINE, segments.c.start == bindparam("start"))
_LANDED_BY = (  # the last segment of labels of which all had landed by a time
    select(segments.c.stop, segments.c.time_to)
    .where(*_MINE, segments.c.time_to <= bindparam("time"))
    .order_by(segments.c.time_to.desc(), segments.c.start.desc())
    .limit(1)
)
_FIRST = (
    select(func.max(segments.c.start)).where(*_MINE, segments.c.start <= bindparam("start")).scalar_subquery()
)
_OVERLAPPING = (  # those that share positions with [start, stop)
    select(*_COLUMNS)
    .where(
        *_MINE,
        segments.c.start >= func.coalesce(_FIRST, 0),
        segments.c.start < bindparam("stop"),
        segments.c.stop > bindparam("start"),
    )
    .order_by(segments.c.start)
)


def write_events(store: SegmentStore, stream: str, start: int, batch: Batch) -> Segment:
    """Write a batch of events from position `start` on."""
    columns = from_columns(batch.columns) | {
        KEY: pa.array(batch.key, pa.string()),
        TIME: batch.time_us,
        ROLE: batch.role,
        PREDICTION: batch.prediction,
        VERSION: batch.version,
    }
    if batch.uncertainty is not None:
        columns[UNCERTAINTY] = batch.uncertainty
    table = pa.table(columns)
    return _write(store, stream, "events", start, table, times_us=batch.time_us)


def write_labels(
    store: SegmentStore,
    stream: str,
    start: int,
    position: NDArray[np.int64],
    value: NDArray[np.float64],
    time_us: NDArray[np.int64],
) -> Segment:
    """Write labels from label position `start` on, each with the position of its event."""
    table = pa.table({POSITION: position, VALUE: value, TIME: time_us})
    return _write(store, stream, "labels", start, table, times_us=time_us, max_position=int(position.max()))


def write_predictions(store: SegmentStore, stream: str, start: int, predictions: Predictions) -> Segment:
    """Write the scores of the events from position `start` on."""
    table = pa.table(
        {
            PREDICTION: predictions.prediction,
            UNCERTAINTY: predictions.uncertainty,
            VERSION: predictions.version,
            SHADOW: predictions.shadow,
            SHADOW_VERSION: predictions.shadow_version,
        }
    )
    return _write(store, stream, "predictions", start, table)


def _write(
    store: SegmentStore,
    stream: str,
    kind: str,
    start: int,
    table: pa.Table,
    times_us: NDArray[np.int64] | None = None,
    max_position: int | None = None,
) -> Segment:
    stop = start + table.num_rows
    path, sha256 = store.put(f"{stream}/{kind}/p{PARTITION}/{start:012d}-{stop:012d}", table)
    time_from = time_to = None
    if times_us is not None and len(times_us):
        time_from, time_to = from_us(times_us.min()), from_us(times_us.max())
    return Segment(stream, kind, start, stop, path, sha256, max_position, time_from, time_to)


def record_segment(connection: Connection, segment: Segment) -> None:
    """Make a written segment exist, in the caller's transaction."""
    connection.execute(_RECORD, {"partition": PARTITION, **segment.__dict__})


def next_position(connection: Connection, stream: str, kind: str) -> int:
    """Return one past the last position of a kind."""
    return int(connection.execute(_NEXT, {"stream": stream, "kind": kind}).scalar() or 0)


def label_pace(connection: Connection, stream: str, labels: int, now: datetime, span: timedelta) -> float:
    """Return how many labels have landed per day of stream time since about `span` ago, or since the first ones; 0 where no time has passed."""
    where = {"stream": stream, "kind": "labels"}
    since = connection.execute(_LANDED_BY, where | {"time": now - span}).first()
    since = since or connection.execute(_AT, where | {"start": 0}).first()
    if since is None or since.time_to is None or since.time_to >= now:
        return 0.0
    return float((labels - since.stop) / ((now - since.time_to) / timedelta(days=1)))


def segment_at(connection: Connection, stream: str, kind: str, start: int) -> Segment | None:
    """Return the segment that begins at a position."""
    row = connection.execute(_AT, {"stream": stream, "kind": kind, "start": start}).first()
    return None if row is None else Segment(*row)


class Log:
    """Reads the sample log; decoded segments are cached, at most `cache_rows` rows of them.

    Parameters
    ----------
    engine
        The database with the manifest.
    store
        Where the bytes lie.
    features
        Feature names by stream; a segment written under an older schema may lack some.
    cache_rows
        Bound of the cache in rows.
    """

    def __init__(
        self,
        engine: Engine,
        store: SegmentStore,
        features: Mapping[str, Sequence[str]],
        cache_rows: int = 400_000,
    ) -> None:
        self._engine = engine
        self._store = store
        self._features = features
        self._cache_rows = cache_rows
        self._cache: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._cached_rows = 0
        self._lock = Lock()

    def events(self, stream: str, start: int, stop: int) -> Events:
        """Return the events at positions [start, stop)."""
        parts: list[Events] = []
        for segment in self._manifest(stream, "events", start, stop):
            whole = self._decoded(segment)
            low, high = max(start, segment.start) - segment.start, min(stop, segment.stop) - segment.start
            parts.append(whole if (low, high) == (0, len(whole)) else whole.take(slice(low, high)))
        return _join(parts)

    def predictions(self, stream: str, start: int, stop: int) -> Predictions:
        """Return the scores of the events at positions [start, stop)."""
        parts: list[Predictions] = []
        for segment in self._manifest(stream, "predictions", start, stop):
            whole = self._decoded(segment)
            parts.append(whole.take(slice(max(start, segment.start) - segment.start, stop - segment.start)))
        return Predictions.concat(parts)

    def labels(self, stream: str, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return (event position, value) of the labels at label positions [start, stop)."""
        positions, values = [np.empty(0, np.int64)], [np.empty(0)]
        for segment in self._manifest(stream, "labels", start, stop):
            position, value = self._decoded(segment)
            part = slice(max(start, segment.start) - segment.start, stop - segment.start)
            positions.append(position[part])
            values.append(value[part])
        return np.concatenate(positions), np.concatenate(values)

    def labelled(self, stream: str, start: int, stop: int) -> Labelled:
        """Return the labels at label positions [start, stop) joined with their events, in label order."""
        position, value = self.labels(stream, start, stop)
        if len(position) == 0:
            return _labelled(_join([]), position, value)
        order = np.argsort(position, kind="stable")
        ordered = position[order]
        parts = []
        for segment in self._manifest(stream, "events", int(ordered[0]), int(ordered[-1]) + 1):
            low, high = np.searchsorted(ordered, (segment.start, segment.stop))
            if high > low:
                parts.append(self._decoded(segment).take(ordered[low:high] - segment.start))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return _labelled(_join(parts).take(back), position, value)

    def _manifest(self, stream: str, kind: str, start: int, stop: int) -> list[Segment]:
        wanted = {"stream": stream, "kind": kind, "start": start, "stop": stop}
        with reading(self._engine) as connection:
            return [Segment(*row) for row in connection.execute(_OVERLAPPING, wanted)]

    def _decoded(self, segment: Segment) -> Any:
        with self._lock:
            if segment.path in self._cache:
                self._cache.move_to_end(segment.path)
                return self._cache[segment.path][0]
        value = self._decode(segment)
        rows = segment.stop - segment.start
        with self._lock:
            if segment.path not in self._cache:  # another thread may have been first
                self._cache[segment.path] = (value, rows)
                self._cached_rows += rows
            while self._cached_rows > self._cache_rows and len(self._cache) > 1:
                self._cached_rows -= self._cache.popitem(last=False)[1][1]
        return value

    def _decode(self, segment: Segment) -> Any:
        table = self._store.get(segment.path, segment.sha256)
        if segment.kind == "labels":
            return _integers(table, POSITION), to_floats(table.column(VALUE))
        if segment.kind == "predictions":
            return Predictions(
                to_floats(table.column(PREDICTION)),
                to_floats(table.column(UNCERTAINTY)),
                _integers(table, VERSION),
                to_floats(table.column(SHADOW)),
                _integers(table, SHADOW_VERSION),
            )
        return Events(
            to_columns(table, self._features[segment.stream]),
            np.arange(segment.start, segment.stop, dtype=np.int64),
            _integers(table, TIME),
            table.column(ROLE).to_numpy().astype(np.int8),
            to_floats(table.column(PREDICTION)),
            _integers(table, VERSION),
            to_floats(table.column(UNCERTAINTY)) if UNCERTAINTY in table.column_names else None,
        )


def _integers(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table.column(name).to_numpy(), dtype=np.int64)


def _join(parts: Sequence[Events]) -> Events:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        none = np.empty(0, np.int64)
        return Events({}, none, none, np.empty(0, np.int8), np.empty(0), none)
    return Events(
        _concat([part.columns for part in parts]),
        np.concatenate([part.position for part in parts]),
        np.concatenate([part.time_us for part in parts]),
        np.concatenate([part.role for part in parts]),
        np.concatenate([part.prediction for part in parts]),
        np.concatenate([part.version for part in parts]),
        _joined_uncertainty(parts),
    )


def _joined_uncertainty(parts: Sequence[Events]) -> NDArray[np.float64] | None:
    if all(part.uncertainty is None for part in parts):
        return None
    return np.concatenate(
        [np.full(len(part), np.nan) if part.uncertainty is None else part.uncertainty for part in parts]
    )


def _labelled(events: Events, position: NDArray[np.int64], value: NDArray[np.float64]) -> Labelled:
    return Labelled(events.columns, value, position, events.time_us, events.role)


def _concat(parts: Sequence[Columns]) -> Columns:
    """Join columns of segments; a feature that an older schema lacked is missing in its rows."""
    kinds = {name: column for part in parts for name, column in part.items()}
    if all(len(part) == len(kinds) for part in parts):
        return concat(parts)
    return concat(
        [{name: part.get(name, _missing(kinds[name], rows_of(part))) for name in kinds} for part in parts]
    )


def _missing(like: Column, rows: int) -> Column:
    if isinstance(like, Categorical):
        return Categorical(np.full(rows, -1, np.int32), ())
    return np.full(rows, np.nan)
