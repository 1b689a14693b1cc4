"""Season: the hour and weekday of events, in UTC, before the epoch as after it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from cls.season import SEASON, with_season
from cls.times import to_us
from detectors.columns import Categorical


def named(season: str, *times: datetime) -> list[str]:
    columns = with_season({}, np.array([to_us(time) for time in times]), season)  # type: ignore[arg-type]
    column = columns[SEASON]
    assert isinstance(column, Categorical)
    return [column.vocabulary[code] for code in column.codes]


@pytest.mark.parametrize(
    "time",
    [
        datetime(2026, 11, 24, 23, 59, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 0, tzinfo=UTC),
        datetime(1912, 4, 15, 2, 20, tzinfo=UTC),
    ],
)
def test_hour_and_weekday_are_those_of_the_calendar(time: datetime) -> None:
    assert named("hour", time) == [f"{time:%H}h"]
    assert named("weekday", time) == [f"{time:%A}"]
    assert named("hour_of_week", time) == [f"{time:%A} {time:%H}h"]


def test_without_seasons_columns_stay_as_they_are() -> None:
    columns = {"x": np.zeros(2)}
    assert with_season(columns, np.zeros(2, np.int64), "none") is columns
