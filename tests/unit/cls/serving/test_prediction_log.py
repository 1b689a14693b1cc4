"""What was answered reaches the inbox as it was sent, whatever stands beside it, and nothing that anybody sends ends the log."""

from __future__ import annotations

import datetime as dt
import time
from decimal import Decimal
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cls.columns.cells import categories, numbers
from cls.columns.features import FeatureReader
from cls.columns.records import to_table
from cls.columns.typed import derived
from cls.config import Config
from cls.errors import Corrupt
from cls.ingest import PREDICTION, VERSION
from cls.serving.prediction_log import Answered, PredictionLog, log_table, logged_names
from detectors.columns import Categorical, Column

COLUMNS = {
    "numeric": ["x"],
    "categorical": ["c"],
    "boolean": ["b"],
    "timestamp": ["t"],
    "key": "id",
    "event_time": "at",
    "target": "y",
}
STREAM = {"task": "regression", "schema": COLUMNS}
SCHEMA = Config.model_validate({"streams": {"s": STREAM}}, by_alias=True, by_name=False).streams["s"].columns
RECORD = {"id": "1", "at": "2013-01-01T00:00:00Z", "x": 1.0, "c": "u", "b": True, "t": "2013-01-01"}


class Kept:
    """An inbox that keeps what it gets; it refuses for good the tables that hold a certain key."""

    def __init__(self, bad: str = "") -> None:
        self.tables: list[pa.Table] = []
        self.bad = bad
        self.open = Event()
        self.open.set()

    def put(self, _stream: str, _producer: str, _sequence: int, _kind: str, table: pa.Table) -> None:
        self.open.wait()
        if self.bad in table.column("id").cast(pa.string()).to_pylist():
            raise Corrupt("not this one")
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:  # as the real one does, which has its own bounds
            writer.write_table(table)
        self.tables.append(table)

    @property
    def keys(self) -> list[str]:
        return sorted(str(key) for table in self.tables for key in table.column("id").to_pylist())


def answered(rows: Any) -> Answered:
    return Answered(rows, np.arange(len(rows), dtype=np.float64), np.full(len(rows), np.nan), 3)


def arrow(key: str, **changes: pa.Array) -> pa.Table:
    plain = {name: pa.array([value]) for name, value in (RECORD | {"id": key}).items()}
    return pa.table(plain | changes)


def logging(inbox: Kept) -> PredictionLog:
    kept: Any = inbox
    return PredictionLog(kept, {"s": SCHEMA})


def written(log: PredictionLog) -> None:
    until = time.monotonic() + 60
    while log.held:
        assert time.monotonic() < until, "the log has ended"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "odd",
    [
        pa.array([dt.datetime(2020, 1, 1, tzinfo=dt.UTC)]),
        pa.array([dt.date(2020, 1, 1)]),
        pa.array([Decimal("1.5")]),
        pa.array([2**62], pa.timestamp("s")),
        pa.array([b"\xff"]),
        pa.array([{"a": dt.date(2020, 1, 1)}]),
        pa.array(["v"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_a_table_of_any_types_is_logged_beside_records_and_other_tables(odd: pa.Array) -> None:
    inbox = Kept()
    inbox.open.clear()
    log = logging(inbox)
    for rows in ([RECORD | {"id": "0"}], arrow("1"), arrow("2", c=odd, at=odd), [RECORD | {"id": "3"}]):
        assert log.offer("s", answered(rows))
    assert log.offer("s", answered(arrow("4", c=pa.array(["w"]).dictionary_encode())))
    assert log.offer("s", answered(arrow("5", c=pa.array(["v"]).dictionary_encode())))
    inbox.open.set()
    assert log.close() == 0
    assert (inbox.keys, log.lost) == (["0", "1", "2", "3", "4", "5"], 0)
    (table,) = [one for one in inbox.tables if "2" in one.column("id").to_pylist()]
    assert table.column("c").type == odd.type
    assert table.column(VERSION).to_pylist() == [3] * len(table)


def test_what_cannot_be_written_is_lost_alone_and_the_log_goes_on() -> None:
    inbox = Kept(bad="b")
    log = logging(inbox)
    assert log.offer("s", answered([RECORD | {"id": "b"}, RECORD]))
    written(log)
    nameless = answered([1, 2])  # no records: a fault of ours
    assert log.offer("s", nameless)
    written(log)
    assert log.offer("s", answered([RECORD | {"id": "c"}]))
    assert log.close() == 0
    assert (inbox.keys, log.lost) == (["c"], 4)


@pytest.mark.parametrize("together", [1, 8, 24], ids=lambda rows: f"{rows} at once")
def test_what_was_read_to_predict_is_logged_so_that_ingest_reads_the_same(together: int) -> None:
    records = 3 * [
        RECORD | {"x": "1.5", "c": 3, "b": "yes", "t": 1_356_998_400},
        RECORD | {"x": None, "c": None, "b": None, "t": None},
        RECORD | {"x": 7, "c": True, "b": False, "t": "2014-05-01T12:00:00+02:00"},
        RECORD | {"x": True, "c": 2.0, "b": 1, "t": "2014-05-01"},
        RECORD | {"x": False, "c": 2.5, "b": 0},
        RECORD | {"x": " 1e3 ", "c": "2"},
        RECORD | {"x": "", "c": "", "b": "", "t": ""},
        {name: RECORD[name] for name in ("id", "at")},
    ]
    names = logged_names(SCHEMA)
    features = tuple(name for column in SCHEMA.derivations for name in column.names)
    reader = FeatureReader(("x", *features), ("c",), SCHEMA.derivations)
    group = []
    for start in range(0, len(records), together):
        some = records[start : start + together]
        prediction = np.arange(start, start + together, dtype=np.float64)
        read = reader.columns(some)
        group.append(Answered(some, prediction, np.full(together, np.nan), 3, read))
    logged = log_table(group, names)
    raw = to_table(records)
    assert list(logged.column_names) == list(dict.fromkeys(logged.column_names))
    assert logged.column(PREDICTION).to_pylist() == list(range(24))

    def ingested(table: pa.Table) -> dict[str, Column]:
        faults: list[str] = []

        def report(mask: Any, why: str) -> None:
            faults.extend([why] * int(mask.any()))

        found: dict[str, Column] = {"x": numbers(table, "x", report, "x"), "c": categories(table, "c")}
        found |= derived(table, SCHEMA.derivations, report)
        assert faults == []
        return found

    ours, theirs = ingested(logged), ingested(raw)
    assert ours.keys() == theirs.keys()
    for name, column in theirs.items():
        mine = ours[name]
        if isinstance(column, Categorical):
            assert isinstance(mine, Categorical)
            assert _words(mine) == _words(column)
        else:
            np.testing.assert_array_equal(mine, column)


def _words(column: Categorical) -> list[str | None]:
    return [None if code < 0 else column.vocabulary[code] for code in column.codes]


def test_rows_that_were_answered_one_by_one_are_logged_as_cheaply_as_together() -> None:
    reader = FeatureReader(("x",), ("c",), ())
    records = [RECORD | {"id": str(row), "c": f"c{row % 7}"} for row in range(2_000)]
    singles = [Answered([one], np.zeros(1), np.full(1, np.nan), 3, reader.columns([one])) for one in records]
    whole = Answered(records, np.zeros(2_000), np.full(2_000, np.nan), 3, reader.columns(records))
    names = logged_names(SCHEMA)

    def seconds(group: list[Answered]) -> float:
        taken = []
        for _ in range(5):
            began = time.thread_time()
            log_table(group, names)
            taken.append(time.thread_time() - began)
        return min(taken)

    assert seconds(singles) < 8 * seconds([whole])
