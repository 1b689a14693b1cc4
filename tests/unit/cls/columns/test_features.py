"""What is served is what is learned from: a value reads the same in a request and in ingest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls.columns.features import FeatureError, read_features
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
)
CATEGORIES = st.one_of(
    st.none(),
    st.text(st.characters(codec="utf-8"), max_size=3),
    st.integers(-9, 9),
    st.sampled_from([1.0, 0.5, -2.0]),
)


def texts(column: Any) -> list[str | None]:
    assert isinstance(column, Categorical)
    return [None if code < 0 else column.vocabulary[code] for code in column.codes]


@given(
    st.lists(st.tuples(NUMBERS, CATEGORIES).filter(lambda row: row[1] is not None), min_size=1, max_size=5)
)
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
