"""A closed window is diagnosed from its rows, wherever they lie: an alarm tells what it means, and a fault is one by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from cls.config import DetectConfig
from cls.detect import judge_window, kl_detector
from cls.diagnose import diagnosed, window_rows
from cls.domain import Verdict, Window
from cls.ports import Events
from cls.season import COLUMNS, with_season
from detectors.columns import Categorical, Column, Columns, rows_of, take
from detectors.reference import Reference

AT = datetime(2013, 1, 1, tzinfo=UTC)
SETTINGS = DetectConfig(window_rows=500, false_alarm_windows=200, bins=8)
DETECTOR = kl_detector(SETTINGS)
RNG = np.random.default_rng(11)


def columns(rows: int, shift: float = 0.0, missing: float = 0.0) -> dict[str, Column]:
    x = RNG.normal(shift, 1, rows)
    x[RNG.random(rows) < missing] = np.nan
    return {
        "x": x,
        "z": RNG.lognormal(size=rows),
        "c": Categorical.of(RNG.choice(["a", "b", "c"], rows).tolist()),
    }


REFERENCE = Reference(DETECTOR.profile(columns(10_000)))


def look(rows: Columns, reference: Reference = REFERENCE) -> Verdict:
    counts = reference.inputs.count(rows)
    window = Window(0, rows_of(rows), AT, AT, counts, counts)
    verdict = judge_window(window, reference.inputs, reference.inputs, SETTINGS, [])
    return diagnosed(verdict, window, reference, lambda: rows)


def fault(verdict: Verdict) -> str | None:
    return None if verdict.diagnosis is None else verdict.diagnosis.fault


def test_a_column_that_broke_is_a_fault_and_a_column_that_moved_is_not() -> None:
    broken, moved, some = (
        look(columns(500, missing=0.8)),
        look(columns(500, 3.0)),
        look(columns(500, missing=0.3)),
    )
    assert "'x' is missing in" in str(fault(broken))
    assert broken.summary.startswith("a fault of the data: column 'x' is missing in")
    assert moved.alarm
    assert moved.summary.startswith("drift: 'x': the median went from")
    assert fault(moved) is None
    assert some.alarm
    assert fault(some) is None  # people began to leave the field empty: the world, not a fault


def test_a_fault_is_found_behind_features_that_moved_more() -> None:
    names = [f"f{i}" for i in range(6)]
    reference = Reference(DETECTOR.profile({name: RNG.normal(size=5000) for name in names}))
    rows: dict[str, Column] = {name: RNG.normal(6, 1, 500) for name in names}
    rows["f5"] = np.where(RNG.random(500) < 0.7, np.nan, RNG.normal(size=500))
    assert "'f5' is missing" in str(fault(look(rows, reference)))


def test_a_quiet_window_is_not_read() -> None:
    rows = columns(500)
    counts = REFERENCE.inputs.count(rows)
    window = Window(0, 500, AT, AT, counts, counts)
    verdict = judge_window(window, REFERENCE.inputs, REFERENCE.inputs, SETTINGS, [])

    def read() -> Columns:
        raise AssertionError("nobody asked for the rows")

    assert diagnosed(verdict, window, REFERENCE, read) is verdict


def test_a_fault_alarms_where_a_slow_column_hides_it_from_the_budget() -> None:
    level = np.repeat(RNG.normal(285, 10, 40), 250)  # weather: hours resemble each other
    reference = Reference(DETECTOR.profile({"kelvin": np.round(level + RNG.normal(size=level.size), 2)}))
    rows: Columns = {"kelvin": np.round(RNG.normal(12, 1, 500), 2)}
    counts = reference.inputs.count(rows)
    window = Window(0, 500, AT, AT, counts, counts)
    verdict = judge_window(window, reference.inputs, reference.inputs, SETTINGS, [])
    assert not verdict.alarm
    found = diagnosed(verdict, window, reference, lambda: rows)
    assert found.alarm
    assert "kelvin to Celsius" in found.summary


class OneRead:
    """A sample log that holds the first rows."""

    def __init__(self, rows: Columns) -> None:
        self.rows = rows

    def __getattr__(self, name: str) -> Callable[..., Events]:
        assert name == "events"
        return lambda _, start, stop: events(self.rows, start, stop)


def events(rows: Columns, start: int, stop: int) -> Events:
    position = np.arange(start, stop, dtype=np.int64)
    nothing = np.zeros(stop - start)
    part = take(rows, slice(start, stop))
    return Events(part, position, position, nothing.astype(np.int8), nothing, position)


def test_rows_of_a_window_are_those_of_the_log_and_then_of_the_batch() -> None:
    rows = columns(900)
    log, batch = OneRead(take(rows, slice(0, 400))), events(rows, 400, 900)
    for start, stop, most in ((300, 700, 500), (450, 800, 500), (100, 400 + 1, 500), (0, 900, 500)):
        window = Window(start, stop, AT, AT, None, None)
        found = window_rows(log, "s", window, batch, most)  # type: ignore[arg-type]
        expected = take(rows, slice(max(start, stop - most), stop))
        np.testing.assert_array_equal(found["x"], expected["x"])


def test_rows_of_the_log_get_the_seasons_that_those_of_the_batch_have() -> None:
    rows = columns(900)
    batch = events(rows, 400, 900)
    batch = replace(batch, columns=with_season(batch.columns, batch.time_us, "hour"))
    found = window_rows(OneRead(rows), "s", Window(300, 700, AT, AT, None, None), batch, 500, "hour")  # type: ignore[arg-type]
    assert rows_of({COLUMNS["hour"]: found[COLUMNS["hour"]]}) == rows_of({"x": found["x"]}) == 400
