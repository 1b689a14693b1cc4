"""Ingest: every row gets one judgement and one role, whatever batch it comes in; every fault names its column."""

from __future__ import annotations

import json
import math
from collections.abc import Container
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls.columns.records import to_table
from cls.config import StreamConfig
from cls.domain import DeadLetter, Role
from cls.ingest import Intake, bury, roles, take_events, take_labels
from cls.times import to_us
from detectors.columns import Categorical

AT = datetime(2013, 1, 1, tzinfo=UTC)
LATEST = to_us(datetime(2014, 1, 1, tzinfo=UTC))
NOTHING: Container[str] = frozenset()


def stream(task: str = "regression", **schema: Any) -> StreamConfig:
    values: dict[str, Any] = {
        "numeric": ("x",),
        "categorical": ("c",),
        "key": "id",
        "event_time": "at",
        "target": "y",
    }
    return StreamConfig.model_validate({"task": task, "schema": values | schema})


REGRESSION = stream()
CLASSES = stream("classification", classes=("no", "yes"))


def take(table: pa.Table, settings: StreamConfig = REGRESSION, known: Container[str] = NOTHING) -> Intake:
    return take_events(table, settings, LATEST, lambda _: known)


def table(rows: int = 1, **columns: Any) -> pa.Table:
    """Return good rows, some columns replaced; None leaves a column out."""
    good: dict[str, Any] = {
        "id": [f"k{i}" for i in range(rows)],
        "at": pa.array([AT] * rows, pa.timestamp("us", tz="UTC")),
        "x": [1.5] * rows,
        "c": ["red"] * rows,
    }
    return pa.table({name: values for name, values in (good | columns).items() if values is not None})


def judged(records: list[dict[str, Any]], settings: StreamConfig, sizes: list[int]) -> list[Any]:
    """Send records in batches of some sizes and return what became of each, in order."""
    found: list[Any] = []
    accepted: set[str] = set()
    start = 0
    for size in [*sizes, len(records)]:
        batch = records[start : start + size]
        start += size
        if not batch:
            continue
        intake = take(to_table(batch), settings, known=set(accepted))
        x, c = intake.batch.columns["x"], intake.batch.columns["c"]
        assert isinstance(c, Categorical)
        assert not isinstance(x, Categorical)
        label = dict(zip(intake.labels.key, intake.labels.value.tolist(), strict=True))
        for row, key in enumerate(intake.batch.key):
            code = int(c.codes[row])
            found.append(
                (
                    key,
                    repr(float(x[row])),
                    None if code < 0 else c.vocabulary[code],
                    int(intake.batch.time_us[row]),
                    int(intake.batch.role[row]),
                    label.get(key),
                )
            )
        accepted |= set(intake.batch.key)
        found += [("dead", letter.reason, letter.record.get("id")) for letter in intake.dead]
    return sorted(found, key=repr)


def reasons(dead: list[DeadLetter]) -> list[str]:
    return [letter.reason for letter in dead]


# -- roles ------------------------------------------------------------------------------------------------------------


def test_roles_are_80_10_10_and_known_answers_never_change() -> None:
    found = roles([f"flight-{i}" for i in range(50_000)])
    share = np.bincount(found, minlength=3) / len(found)
    assert share == pytest.approx([0.8, 0.1, 0.1], abs=0.006)  # four standard deviations
    assert roles(["a", "b", "é", "k1", "k10", "k16"]).tolist() == [
        Role.TRAIN if bucket < 8 else Role.TUNE if bucket == 8 else Role.GATE
        for bucket in (3904355907 % 10, 1908338681 % 10, 3141486777 % 10, *_crc("k1", "k10", "k16"))
    ]


def _crc(*texts: str) -> list[int]:
    """Return CRC-32 modulo ten by its definition, bit by bit."""
    found = []
    for text in texts:
        crc = 0xFFFFFFFF
        for byte in text.encode():
            crc ^= byte
            for _ in range(8):
                crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
        found.append((crc ^ 0xFFFFFFFF) % 10)
    return found


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=40), st.data())
def test_a_role_is_a_function_of_the_group_alone(groups: list[str], data: st.DataObject) -> None:
    whole = roles(groups).tolist()
    order = data.draw(st.permutations(range(len(groups))))
    assert [whole[i] for i in order] == roles([groups[i] for i in order]).tolist()
    assert whole == [int(roles([group])[0]) for group in groups]


def test_rows_of_one_group_share_a_role_whatever_their_keys() -> None:
    settings = stream(group="plane")
    planes = [f"N{i % 7}" for i in range(70)]
    intake = take(table(70, plane=planes), settings)
    by_plane = {(plane, role) for plane, role in zip(planes, intake.batch.role.tolist(), strict=True)}
    assert len(by_plane) == 7
    assert intake.batch.role.tolist() == roles(planes).tolist()
    assert reasons(take(table(2, plane=["N1", None]), settings).dead) == ["'plane' is empty"]
    assert reasons(take(table(1), settings).dead) == ["column 'plane' is missing"]


# -- the same row, the same judgement ---------------------------------------------------------------------------------

RECORD = st.fixed_dictionaries(
    {
        "at": st.sampled_from(
            ["2013-01-01", "2013-02-30", "2013-01-01T02:00:00+02:00", "2030-01-01", "yesterday", "", None]
        ),
        "x": st.sampled_from(
            [1.5, -3, 2**53 + 1, None, "7", " 8 ", "seven", "", "NaN", math.nan, math.inf, "-inf"]
        ),
    },
    optional={
        "c": st.sampled_from(["red", "", "é", 1, 1.0, None]),
        "y": st.sampled_from([0.5, 1, "2", "two", None, math.inf, math.nan]),
        "other": st.sampled_from([1, "a", None, {"a": [1]}]),
    },
)


@given(st.lists(RECORD, min_size=1, max_size=12), st.lists(st.integers(1, 4), max_size=6))
def test_how_rows_are_cut_into_batches_changes_no_judgement(
    records: list[dict[str, Any]], sizes: list[int]
) -> None:
    keyed = [record | {"id": f"k{i}"} for i, record in enumerate(records)]
    whole = judged(keyed, REGRESSION, [])
    assert len(whole) == len(keyed)  # each row once, here or there
    assert judged(keyed, REGRESSION, sizes) == whole


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.lists(st.integers(1, 4), max_size=6))
def test_of_equal_keys_the_first_counts_in_every_batch_split(keys: list[str], sizes: list[int]) -> None:
    records = [{"id": key, "at": "2013-01-01", "x": float(i)} for i, key in enumerate(keys)]
    found = judged(records, REGRESSION, sizes)
    assert found == judged(records, REGRESSION, [])
    first = {key: repr(float(keys.index(key))) for key in keys}
    assert {row[0]: row[1] for row in found if row[0] != "dead"} == first


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(
            [{"id": "k", "at": "2013-01-01", "x": "bad"}, {"id": "k", "at": "2013-01-01", "x": 1.0}],
            id="a bad row does not take the key of a good one",
        ),
        pytest.param(
            [{"id": "a", "at": "2013-01-01"}, {"id": "b", "at": "2013-01-01", "x": 1.0}],
            id="a row without any feature",
        ),
        pytest.param(
            [{"id": "a", "at": 1357000000, "x": 1.0}, {"id": "b", "at": "2013-01-01", "x": 1.0}],
            id="epoch seconds beside text",
        ),
        pytest.param(
            [{"id": "a", "at": "2013-01-01", "x": True}, {"id": "b", "at": "2013-01-01", "x": 2.5}],
            id="true beside a number",
        ),
    ],
)
def test_neighbours_do_not_change_a_judgement(records: list[dict[str, Any]]) -> None:
    assert judged(records, REGRESSION, [1]) == judged(records, REGRESSION, [])


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.5, None, math.nan], [1.5, math.nan, math.nan]),
        (pa.array([1, None], pa.int8()), [1, math.nan]),
        ([True, False, None], [1, 0, math.nan]),
        (["1.5", " 2 ", "", "nan", "NULL", None], [1.5, 2, *[math.nan] * 4]),
        (pa.array([2**63 - 1, -(2**63)]), [2.0**63, -(2.0**63)]),
        (pa.array([2**64 - 1], pa.uint64()), [2.0**64]),
        (pa.array([Decimal("1.25"), None]), [1.25, math.nan]),
        (pa.nulls(2), [math.nan, math.nan]),
        (pa.array(["3", None]).dictionary_encode(), [3, math.nan]),
        (pa.array([1.5], pa.float16()), [1.5]),
    ],
)
def test_numbers_of_every_type_are_read_and_nan_means_missing(values: Any, expected: list[float]) -> None:
    intake = take(table(len(values), x=values))
    assert intake.dead == []
    assert np.array_equal(np.asarray(intake.batch.columns["x"]), expected, equal_nan=True)


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("x", [math.inf], "feature 'x' is infinite"),
        ("x", [-math.inf], "feature 'x' is infinite"),
        ("x", ["-inf"], "feature 'x' is infinite"),
        ("x", ["seven"], "feature 'x' is not a number"),
        ("x", [{"a": 1}], "feature 'x' is not a number but struct<a: int64>"),
        ("x", [[1.0]], "feature 'x' is not a number but list<element: double>"),
        ("x", [b"1"], "feature 'x' is not a number but binary"),
        ("y", [math.inf], "target 'y' is infinite"),
        ("y", ["late"], "target 'y' is not a number"),
        ("id", [None], "'id' is empty"),
        ("id", [""], "'id' is empty"),
        ("id", [math.nan], "'id' is empty"),
        ("id", ["k" * 256], "'id' is longer than 255 characters"),
        ("id", ["a\0b"], "'id' holds a NUL character"),
        ("id", [["a"]], "'id' is empty"),
        ("at", [None], "'at' is not a time (ISO 8601, timestamp or epoch seconds)"),
        ("at", ["soon"], "'at' is not a time (ISO 8601, timestamp or epoch seconds)"),
        ("at", [math.inf], "'at' is not a time (ISO 8601, timestamp or epoch seconds)"),
        ("at", [math.nan], "'at' is not a time (ISO 8601, timestamp or epoch seconds)"),
        ("at", [10**18], "'at' is not a time (ISO 8601, timestamp or epoch seconds)"),
        ("at", ["2014-01-01T00:00:00.000001Z"], "'at' lies in the future"),
        ("cls_version", [-1], "cls_version is not the number of a version"),
        ("cls_version", [2.0**40], "cls_version is not the number of a version"),
        ("cls_prediction", ["high"], "cls_prediction is not a number"),
    ],
)
def test_a_bad_value_is_a_dead_letter_that_names_its_column(column: str, values: Any, reason: str) -> None:
    intake = take(table(1, **{column: values}))
    found = reasons(intake.dead)
    assert len(found) == 1
    assert found[0].replace("item:", "element:") == reason
    assert len(intake.batch.key) == len(intake.labels.key) == 0
    json.dumps(intake.dead[0].record, allow_nan=False)  # can be stored


@pytest.mark.parametrize("column", ["id", "at"])
def test_a_column_that_every_row_needs_is_named_when_it_is_missing(column: str) -> None:
    intake = take(table(3, **{column: None}))
    assert reasons(intake.dead) == [f"column {column!r} is missing"] * 3


def test_a_missing_feature_column_is_missing_in_its_rows_but_some_feature_must_be_there() -> None:
    intake = take(table(2, c=None))
    column = intake.batch.columns["c"]
    assert isinstance(column, Categorical)
    assert column.codes.tolist() == [-1, -1]
    assert reasons(take(table(1, c=None, x=None)).dead) == ["none of the features is there: x, c"]


def test_one_bad_row_takes_no_other_with_it() -> None:
    intake = take(table(5, x=["1", "bad", "3", "inf", "5"], y=[1.0, 2.0, math.nan, 4.0, 5.0]))
    assert intake.batch.key == ["k0", "k2", "k4"]
    assert intake.labels.key == ["k0", "k4"]  # k2 has no label yet
    assert [letter.record["id"] for letter in intake.dead] == ["k1", "k3"]
    lengths = {len(values) for values in (intake.batch.time_us, intake.batch.role, intake.batch.prediction)}
    assert lengths == {3}


@pytest.mark.parametrize(
    "values",
    [
        pa.array([AT], pa.timestamp("us", tz="UTC")),
        pa.array([AT], pa.timestamp("ns", tz="America/New_York")),
        pa.array([AT.replace(tzinfo=None)], pa.timestamp("s")),
        pa.array([date(2013, 1, 1)]),
        pa.array([1356998400]),
        pa.array([1356998400.0]),
        ["2013-01-01"],
        ["2013-01-01T00:00:00Z"],
        ["2012-12-31 19:00:00-05:00"],
        pa.array(["20130101T000000"], pa.large_string()),
    ],
)
def test_one_moment_in_every_spelling(values: Any) -> None:
    intake = take(table(1, at=values))
    assert intake.dead == []
    assert intake.batch.time_us.tolist() == [to_us(AT)]


def test_fractions_of_a_second_and_times_before_the_epoch_are_kept() -> None:
    intake = take(table(3, at=["2013-01-01T00:00:00.123456Z", "1969-12-31T23:59:59Z", "1900-01-01"]))
    assert intake.batch.time_us.tolist() == [
        to_us(AT) + 123_456,
        -1_000_000,
        to_us(datetime(1900, 1, 1, tzinfo=UTC)),
    ]


def test_keys_are_the_same_text_from_csv_json_and_parquet() -> None:
    spellings = [
        pa.array([7]),
        pa.array([7.0]),
        ["7"],
        pa.array([7], pa.uint8()),
        pa.array(["7"]).dictionary_encode(),
    ]
    assert {take(table(1, id=values)).batch.key[0] for values in spellings} == {"7"}
    assert take(table(1, id=pa.array([2**63 - 1]))).batch.key == [str(2**63 - 1)]


def test_what_was_served_comes_along() -> None:
    intake = take(table(3, cls_prediction=[1.0, None, math.nan], cls_version=[4, None, 2]))
    assert np.array_equal(intake.batch.prediction, [1.0, np.nan, np.nan], equal_nan=True)
    assert intake.batch.version.tolist() == [4, 0, 2]


def test_an_empty_batch_is_nothing() -> None:
    intake = take(table(0, at=pa.array([], pa.timestamp("us", tz="UTC"))))
    assert (intake.batch.key, intake.labels.key, intake.dead) == ([], [], [])


def test_whole_batches_can_be_buried_even_with_times_that_python_cannot_hold() -> None:
    far = pa.array([2**62], pa.timestamp("s"))
    letters = bury(pa.table({"id": ["a"], "at": far}), "events", "no reader for it")
    assert [(letter.kind, letter.reason, letter.record["id"]) for letter in letters] == [
        ("events", "no reader for it", "a")
    ]
    assert len(take(table(1, at=far)).batch.key) + len(take(table(1, at=far)).dead) == 1


# -- labels -----------------------------------------------------------------------------------------------------------


def test_a_label_in_the_event_lands_at_its_label_time_or_with_the_event() -> None:
    settings = stream(label_time="landed")
    landed = pa.array([datetime(2013, 1, 2, tzinfo=UTC), None], pa.timestamp("us", tz="UTC"))
    intake = take(table(2, y=[1.0, 2.0], landed=landed), settings)
    assert intake.labels.time_us.tolist() == [to_us(datetime(2013, 1, 2, tzinfo=UTC)), to_us(AT)]
    assert take(table(1, y=[1.0]), settings).labels.time_us.tolist() == [to_us(AT)]


def test_an_event_that_is_there_already_may_still_bring_its_label() -> None:
    found = take(table(4, id=["k0", "k0", "k1", "k2"], y=[None, 7.0, None, 8.0]), known={"k1", "k2"})
    assert found.batch.key == ["k0"]
    assert (found.labels.key, found.labels.value.tolist()) == (["k0", "k2"], [7.0, 8.0])
    assert [letter.record["id"] for letter in found.dead] == ["k1"]


def test_labels_by_key_take_the_streams_time_unless_they_bring_theirs() -> None:
    now = to_us(AT)
    plain = pa.table({"id": ["a", "b", None], "y": [1.0, None, 3.0]})
    labels, dead = take_labels(plain, REGRESSION, now, LATEST)
    assert (labels.key, labels.value.tolist(), labels.time_us.tolist()) == (["a"], [1.0], [now])
    assert reasons(dead) == ["label 'y' is missing", "'id' is empty"]
    timed = pa.table({"id": ["a", "b"], "y": [1.0, 2.0], "label_time": ["2013-01-05", "2030-01-01"]})
    labels, dead = take_labels(timed, REGRESSION, now, LATEST)
    assert labels.time_us.tolist() == [to_us(datetime(2013, 1, 5, tzinfo=UTC))]
    assert reasons(dead) == ["'label_time' lies in the future"]
    labels, dead = take_labels(pa.table({"id": ["a"]}), REGRESSION, now, LATEST)
    assert reasons(dead) == ["label 'y' is missing"]


def test_classes_become_their_index_and_others_are_refused() -> None:
    intake = take(table(4, y=["yes", "no", None, "maybe"]), CLASSES)
    assert (intake.labels.key, intake.labels.value.tolist()) == (["k0", "k1"], [1.0, 0.0])
    assert reasons(intake.dead) == ["target 'y' is none of the classes no, yes"]
    numbers = stream("classification", classes=("0", "1"))
    for spelling in (pa.array([1, 0]), pa.array([1.0, 0.0]), ["1", "0"]):
        assert take(table(2, y=spelling), numbers).labels.value.tolist() == [1.0, 0.0]
    flags = stream("classification", classes=("false", "true"))
    assert take(table(2, y=[True, False]), flags).labels.value.tolist() == [1.0, 0.0]
