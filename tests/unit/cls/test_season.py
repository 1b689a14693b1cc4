"""Season: the hour and weekday of events, in UTC, before the epoch as after it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from cls.season import COLUMNS, Season, season_of, with_season
from cls.times import to_us
from detectors.columns import Categorical
from detectors.profile import build_profile


def named(season: Season, *times: datetime) -> list[str]:
    columns = with_season({}, np.array([to_us(time) for time in times]), season)
    column = columns[COLUMNS[season]]
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


@pytest.mark.parametrize("season", ["hour", "weekday", "hour_of_week"])
def test_a_profile_tells_the_season_that_it_was_made_by(season: Season) -> None:
    time_us = np.arange(500, dtype=np.int64) * 3600 * 10**6
    columns = with_season({"x": np.arange(500.0)}, time_us, season)
    assert season_of(build_profile(columns, season=COLUMNS[season])) == season
    assert season_of(build_profile({"x": np.arange(500.0)})) == "none"
    with pytest.raises(ValueError, match="unknown season"):
        season_of(build_profile({"x": np.arange(500.0), "tide": columns[COLUMNS[season]]}, season="tide"))


def test_columns_of_several_seasons_stand_beside_each_other() -> None:
    columns = with_season({}, np.zeros(2, np.int64), "hour", "none", "weekday", "hour")
    assert sorted(columns) == sorted((COLUMNS["hour"], COLUMNS["weekday"]))
