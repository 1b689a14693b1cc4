"""Typed columns at the border: one value derives the same in every format, and what is not of the type is refused with a reason."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from cls.columns.faults import FeatureError
from cls.columns.features import read_features
from cls.columns.records import parse_lines, to_table
from cls.config import StreamConfig
from cls.ingest import Intake, take_events
from cls.train import schema_of
from detectors.columns import Categorical, Columns, rows_of
from storage.file_readers import FORMATS

SCHEMA: dict[str, Any] = {
    "numeric": ["x"],
    "categorical": ["c"],
    "boolean": ["b"],
    "timestamp": ["due"],
    "text": ["note"],
    "embedding": {"v": 3},
    "key": "id",
    "event_time": "at",
    "target": "y",
}
STREAM = StreamConfig.model_validate({"task": "regression", "schema": SCHEMA})
ROWS: list[dict[str, Any]] = [
    {"x": 1.5, "c": "u", "b": True, "due": "2013-03-04T05:06:07+00:00", "note": "Late, again!", "v": [1.0, 0.5, -2.0]},
    {"x": 2.0, "c": "v", "b": False, "due": "2013-12-31T23:59:59+00:00", "note": "naïve “quotes” 42", "v": [0.25, 3.0, 1e-3]},
    {"x": None, "c": None, "b": None, "due": None, "note": None, "v": None},
    {"x": 0.0, "c": "u", "b": True, "due": "1969-07-20T20:17:00+00:00", "note": "a\nb", "v": [0.0, 0.0, 0.0]},
]  # fmt: skip


def take(table: pa.Table) -> Intake:
    return take_events(table, STREAM, 2**60, lambda _: ())


def values(columns: Columns) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name, column in columns.items():
        if isinstance(column, Categorical):
            found[name] = [None if code < 0 else column.vocabulary[code] for code in column.codes]
        else:
            found[name] = [None if np.isnan(value) else float(value) for value in column]
    return found


def records() -> list[dict[str, Any]]:
    return [{"id": f"k{i}", "at": "2013-01-01T00:00:00Z", "y": 1.0} | row for i, row in enumerate(ROWS)]


def arrow(vector: pa.DataType) -> pa.Table:
    """The rows as Arrow has them: real truth values, times and lists."""
    times = [None if row["due"] is None else datetime.fromisoformat(row["due"]) for row in ROWS]
    return pa.table(
        {
            "id": [f"k{i}" for i in range(len(ROWS))],
            "at": pa.array([datetime(2013, 1, 1, tzinfo=UTC)] * len(ROWS), pa.timestamp("us", tz="UTC")),
            "x": [row["x"] for row in ROWS],
            "c": pa.array([row["c"] for row in ROWS]).dictionary_encode(),
            "b": [row["b"] for row in ROWS],
            "due": pa.array(times, pa.timestamp("ns", tz="Europe/Berlin")),
            "note": pa.array([row["note"] for row in ROWS], pa.large_string()),
            "v": pa.array([row["v"] for row in ROWS], vector),
        }
    )


def from_csv(folder: Path) -> pa.Table:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_MINIMAL)
    names = list(records()[0])
    writer.writerow(names)
    for record in records():
        cells = [record[name] for name in names]
        writer.writerow([json.dumps(cell) if isinstance(cell, list) else cell for cell in cells])
    path = folder / "a.csv"
    path.write_text(text.getvalue(), newline="")
    reader = FORMATS["csv"](path)
    piece = reader.read(100)
    reader.close()
    assert piece is not None
    return piece.table


def test_one_value_derives_the_same_from_json_ndjson_csv_arrow_and_parquet(tmp_path: Path) -> None:
    parquet.write_table(arrow(pa.list_(pa.float64())), tmp_path / "a.parquet")
    tables = {
        "json": to_table(records()),
        "ndjson": parse_lines("\n".join(map(json.dumps, records())).encode()),
        "csv": from_csv(tmp_path),
        "fixed": arrow(pa.list_(pa.float64(), 3)),
        "large": arrow(pa.large_list(pa.float64())),
        "parquet": parquet.read_table(tmp_path / "a.parquet"),
    }
    found = {name: take(table) for name, table in tables.items()}
    for name, intake in found.items():
        assert [letter.reason for letter in intake.dead if letter.record["id"] != "k2"] == [], name
        assert intake.batch.key == ["k0", "k1", "k3"]  # nothing at all is known of k2
        assert values(intake.batch.columns) == values(found["json"].batch.columns), name
    columns = values(found["json"].batch.columns)
    assert tuple(columns) != STREAM.columns.features  # order is the log's business
    assert set(columns) == set(STREAM.columns.features)
    assert columns["b"] == ["true", "false", "true"]
    assert columns["due.hour"] == ["05", "23", "20"]
    assert columns["due.weekday"] == ["Mon", "Tue", "Sun"]
    assert columns["note.length"] == [12.0, 17.0, 3.0]
    assert columns["v.norm"] == pytest.approx([np.sqrt(5.25), np.sqrt(0.0625 + 9 + 1e-6), 0])


@pytest.mark.parametrize(
    ("column", "written", "expected"),
    [
        ("b", [True, "TRUE", " yes ", 1, 1.0, "1", "t", "Y"], {"b": ["true"] * 8}),
        ("b", [False, "no", 0, "0.0", "F"], {"b": ["false"] * 5}),
        ("b", ["", "NaN", None, "na"], {"b": [None] * 4}),
        ("due", ["2013-01-01", 1356998400, "1356998400", "2013-01-01T01:00:00+01:00"], {"due.hour": ["00"] * 4}),
        ("due", ["", None, " null "], {"due.weekday": [None] * 3}),
        ("note", [5, 5.0, "5"], {"note.length": [1.0] * 3, "note.digits": [1.0] * 3}),
        ("v", [[3, 4, 0], "[3, 4.0, 0]", " [3,4,0] "], {"v.norm": [5.0] * 3}),
        ("v", [None, "", "nan"], {"v.norm": [None] * 3}),
    ],
)  # fmt: skip
def test_a_type_is_read_in_every_common_spelling(
    column: str, written: list[Any], expected: dict[str, list[Any]]
) -> None:
    for cells in (written, [written[0]]):
        rows = [{"id": str(i), "at": 1, "x": 1.0, column: cell} for i, cell in enumerate(cells)]
        intake = take(to_table(rows))
        assert not intake.dead
        found = values(intake.batch.columns)
        assert {name: found[name] for name in expected} == {
            name: cells_[: len(cells)] for name, cells_ in expected.items()
        }


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        ("b", "maybe", "feature 'b' is not true or false"),
        ("b", 2, "feature 'b' is not true or false"),
        ("b", [True], "feature 'b' is not true or false"),
        ("due", "soon", "feature 'due' is not a time"),
        ("due", True, "feature 'due' is not a time"),
        ("v", [1.0, 2.0], "feature 'v' is not a list of 3 finite numbers"),
        ("v", [1.0, 2.0, 3.0, 4.0], "feature 'v' is not a list of 3 finite numbers"),
        ("v", [1.0, None, 3.0], "feature 'v' is not a list of 3 finite numbers"),
        ("v", [1.0, 1e200, 3.0], "feature 'v' is not a list of 3 finite numbers"),
        ("v", [1.0, "2", 3.0], "feature 'v' is not a list of 3 finite numbers"),
        ("v", [1.0, True, 3.0], "feature 'v' is not a list of 3 finite numbers"),
        ("v", [], "feature 'v' is not a list of 3 finite numbers"),
        ("v", 1.0, "feature 'v' is not a list of 3 finite numbers"),
        ("v", "[1, 2", "feature 'v' is not a list of 3 finite numbers"),
        ("v", {"a": 1}, "feature 'v' is not a list of 3 finite numbers"),
    ],
)
def test_what_is_not_of_the_type_is_a_dead_letter_and_refused_by_predict(
    column: str, cell: Any, reason: str
) -> None:
    rows = [{"id": str(i), "at": 1, "x": 1.0, column: value} for i, value in enumerate((None, cell, None))]
    intake = take(to_table(rows))
    assert [letter.reason.startswith(reason) for letter in intake.dead] == [True]
    assert intake.batch.key == ["0", "2"]
    derivations = STREAM.columns.derivations
    wanted = next(one for one in derivations if one.name == column)
    with pytest.raises(FeatureError, match=f"row 1: {reason}") as caught:
        read_features(rows, wanted.numeric, wanted.categorical, derivations)
    assert [(fault.field, fault.row) for fault in caught.value.faults] == [(column, 1)]


@pytest.mark.parametrize("vector", [pa.list_(pa.float32()), pa.list_(pa.float64(), 3), pa.list_(pa.int64())])
def test_arrow_lists_with_holes_and_offsets_are_read_row_by_row(vector: pa.DataType) -> None:
    cells = [[9, 9, 9], [3, 4, 0], None, [0, 0, 2], [1, None, 1]]
    table = pa.table(
        {"id": [str(i) for i in range(5)], "at": [1] * 5, "x": [1.0] * 5, "v": pa.array(cells, vector)}
    )
    intake = take(table.slice(1))
    assert values(intake.batch.columns)["v.norm"] == [5.0, None, 2.0]
    assert [letter.record["id"] for letter in intake.dead] == ["4"]


BOOLEANS = st.sampled_from([None, True, False, "yes", "0", 1, 0.0, "maybe", ""])
TIMES = st.sampled_from([None, "2013-01-01T10:00:00Z", 1.5e9, "1500000000", "soon", "", "2013-06-01"])
TEXTS = st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=8), st.integers(-9, 9))
VECTORS = st.one_of(
    st.none(),
    st.lists(st.one_of(st.integers(-9, 9), st.floats(-1e6, 1e6)), min_size=3, max_size=3),
    st.sampled_from([[1.0], "[1, 2, 3]", "", "x", [1, 2, None]]),
)


@given(st.lists(st.tuples(BOOLEANS, TIMES, TEXTS, VECTORS), min_size=1, max_size=5))
def test_a_request_derives_what_ingest_derives_from_the_same_rows(rows: list[tuple[Any, ...]]) -> None:
    sent = [
        {"id": str(i), "at": 1, "x": 1.0, "c": None} | dict(zip(("b", "due", "note", "v"), row, strict=True))
        for i, row in enumerate(rows)
    ]
    intake = take(to_table(sent))
    schema = schema_of(STREAM)
    names = (schema.numeric, schema.categorical, STREAM.columns.derivations)
    good = {int(key) for key in intake.batch.key}
    for i, row in enumerate(sent):
        if i not in good:
            with pytest.raises(FeatureError):
                read_features([row], *names)
    if good:
        columns = read_features([row for i, row in enumerate(sent) if i in good], *names)
        assert columns.keys() == intake.batch.columns.keys() == set(schema.features)
        for name in schema.numeric:  # sums of products are rounded as their batch has it
            assert columns[name] == pytest.approx(
                intake.batch.columns[name], rel=1e-12, abs=1e-8, nan_ok=True
            )
        mine, theirs = values(columns), values(intake.batch.columns)
        assert all(mine[name] == theirs[name] for name in schema.categorical)


def test_a_typed_column_that_every_record_lacks_is_named_and_one_that_the_model_does_not_read_is_not_asked_for() -> (
    None
):
    derivations = STREAM.columns.derivations
    with pytest.raises(FeatureError, match="no row has the feature 'note'"):
        read_features([{"x": 1.0}], ("x", "note.length"), (), derivations)
    columns = read_features([{"x": 1.0}, {"x": 2.0}], ("x",), (), derivations)
    assert list(columns) == ["x"]
    assert rows_of(columns) == 2
