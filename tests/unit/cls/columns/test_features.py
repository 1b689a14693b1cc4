"""What is served is what is learned from: a value reads the same in a request and in ingest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cls.columns.cells import categories, numbers
from cls.columns.faults import NAMED, FeatureError
from cls.columns.features import FeatureReader, read_features
from cls.columns.records import to_table
from cls.config import StreamConfig
from cls.ingest import take_events
from detectors.columns import Categorical

STREAM = StreamConfig.model_validate(
    {
        "task": "regression",
        "schema": {"numeric": ["x"], "categorical": ["c"], "key": "id", "event_time": "at", "target": "y"},
    },
    by_alias=True,
    by_name=False,
)
NUMBERS = st.one_of(
    st.none(),
    st.floats(width=64),
    st.integers(-(2**53), 2**53),
    st.sampled_from(["1", " 2.5 ", "", "NaN", "na", "null", "1e3", "-0", "far", "1_000", "inf", ".5", "5."]),
    st.sampled_from(
        ["true", " False", "TRUE", "-nan", "\u0661", "0x1", "yes", "1e999", 10**400, [1], {"a": 1}]
    ),
    st.booleans(),
    st.text("0123456789+-.eE_ ", max_size=5),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.text(st.characters(codec="utf-8"), max_size=3),
    st.integers(-(2**70), 2**70),
    st.floats(allow_infinity=False),
    st.sampled_from([1.0, 0.5, -2.0, 1]),
)
CATEGORIES = st.recursive(
    SCALARS, lambda deeper: st.lists(deeper, max_size=2) | st.dictionaries(st.just("k"), deeper), max_leaves=3
)


def texts(column: Any) -> list[str | None]:
    assert isinstance(column, Categorical)
    return [None if code < 0 else column.vocabulary[code] for code in column.codes]


@given(
    st.lists(
        st.tuples(NUMBERS, CATEGORIES).filter(lambda row: row[1] == row[1] is not None),
        min_size=1,
        max_size=5,
    )
)
@example([("true", True), (" False", 0.5)])
@example([("1", [1]), ("\u0661", {"a": 1})])
def test_a_request_reads_its_rows_as_ingest_does(values: list[tuple[Any, Any]]) -> None:
    rows = [{"id": str(i), "at": 1, "x": x, "c": c} for i, (x, c) in enumerate(values)]
    intake = take_events(to_table(rows), STREAM, 2**60, lambda _: ())
    good = {int(key) for key in intake.batch.key}
    for i, row in enumerate(rows):
        if i not in good:
            with pytest.raises(FeatureError):
                read_features([row], ["x"], ["c"])
    kept = [row for i, row in enumerate(rows) if i in good]
    columns = read_features(kept or [{"x": None, "c": None}], ["x"], ["c"])
    if kept:
        mine, theirs = columns["x"], intake.batch.columns["x"]
        assert isinstance(mine, np.ndarray)
        assert isinstance(theirs, np.ndarray)
        assert np.allclose(
            mine, theirs, rtol=1e-14, atol=0.0, equal_nan=True
        )  # pandas rounds numbers in text its own way
        assert texts(columns["c"]) == texts(intake.batch.columns["c"])


@settings(max_examples=30)
@given(SCALARS.filter(lambda value: value is not None), SCALARS, st.booleans())
def test_ingest_reads_a_category_whatever_stands_beside_it(value: Any, other: Any, first: bool) -> None:
    def category(values: list[Any]) -> list[str | None]:
        rows = [{"id": str(i), "at": 1, "x": 1.0, "c": c} for i, c in enumerate(values)]
        return texts(take_events(to_table(rows), STREAM, 2**60, lambda _: ()).batch.columns["c"])

    both = category([value, other] if first else [other, value])
    assert both[0 if first else 1] == category([value])[0]


def faults_of(rows: Any) -> FeatureError:
    with pytest.raises(FeatureError) as caught:
        FeatureReader(["x", "y"], ["c"]).read(rows)
    return caught.value


def test_every_fault_is_named_by_row_whether_json_or_arrow() -> None:
    rows = [{"x": "far", "y": "1"}, {"x": "2", "y": "inf"}, {"x": "3", "y": "much"}]
    for sent in (rows, pa.Table.from_pylist(rows)):
        found = faults_of(sent)
        assert [(fault.field, fault.row, fault.found) for fault in found.faults] == [
            ("c", None, None),
            ("x", 0, '"far"'),
            ("y", 1, '"inf"'),
            ("y", 2, '"much"'),
        ]
        assert found.more == 0
        assert str(found) == "no row has the feature 'c'; send null where it is missing (and 3 more)"
        assert found.faults[2].fix == "send a number, or null where it is missing"


def test_faults_beyond_those_named_are_counted_and_long_values_shortened() -> None:
    rows = [{"x": "z" * 1000, "y": 1.0 if row else "far", "c": "u"} for row in range(50)]
    for sent in (rows, pa.Table.from_pylist([row | {"y": str(row["y"])} for row in rows])):
        found = faults_of(sent)
        assert [fault.row for fault in found.faults] == [0, 0, *range(1, NAMED - 1)]
        assert found.more == 51 - NAMED
        assert {len(str(fault.found)) for fault in found.faults} == {60, 5}


def test_an_arrow_list_is_no_category() -> None:
    table = pa.table({"x": [1.0, 2.0], "y": [1.0, 2.0], "c": [[1], None]})
    assert [(fault.field, fault.row) for fault in faults_of(table).faults] == [("c", 0)]


@pytest.mark.parametrize(
    "more",
    [
        pa.array([2**53 + 1, None, -(2**62)], pa.int64()),
        pa.array([2**24 + 1, None, 3], pa.int32()),
        pa.array([2**15 - 1, None, 3], pa.int16()),
        pa.array([1, None, 3], pa.int8()),
        pa.array([0.1, None, float("nan")], pa.float32()),
        pa.array([2**63 + 1, None, 3], pa.uint64()),
        pa.array([True, None, False]),
        pa.array(["0.1", None, "true"]),
        pa.nulls(3),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("x", [[0.1, None, 1e300], [None, None, None]], ids=["known", "unknown"])
def test_columns_of_arrow_that_are_read_at_once_are_what_each_is_alone(more: pa.Array, x: list[Any]) -> None:
    whole = pa.table({"c": ["u", None, "v"], "y": more, "x": pa.array(x, pa.float64())})
    for table in (whole, pa.concat_tables([whole.slice(0, 1), whole.slice(1)]), whole.slice(0, 0)):
        read = FeatureReader(["x", "y"], ["c"]).read(table)
        for name in ("x", "y"):
            np.testing.assert_array_equal(read[name], numbers(table, name, lambda *_: None, name))
        assert texts(read["c"]) == texts(categories(table, "c"))


def test_what_is_quickly_read_is_no_text_that_is_a_number_and_nothing_long() -> None:
    table = pa.table({"x": [1.0, 2.0], "y": [1, 2], "c": ["u", "v"]})
    reader = FeatureReader(["x", "y"], ["c"])
    assert reader.quick(table)
    assert not reader.quick(table.drop_columns(["x"]))
    assert not reader.quick(table.set_column(0, "x", pa.array(["1", "2"])))
    assert not reader.quick(pa.concat_tables([table] * 1_000))
