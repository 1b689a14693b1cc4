"""Season: the hour or weekday of events as a column, so that they are compared with the reference's of the same."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cls.config import DetectConfig
from detectors.columns import Categorical, Columns
from detectors.profile import Profile

Season = Literal["none", "hour", "weekday", "hour_of_week"]

# The columns' names, by which a profile tells its season. No feature can be named so: it would have to be written in the schema.
COLUMNS: dict[Season, str] = {
    "hour": "hour of the event",
    "weekday": "weekday of the event",
    "hour_of_week": "hour of the week of the event",
}
_WORDS: dict[Season, str] = {
    "none": "without seasons",
    "hour": "by hour",
    "weekday": "by weekday",
    "hour_of_week": "by hour of the week",
}
HOUR_US = 3600 * 10**6
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
EPOCH_DAY = 3  # 1 January 1970 was a Thursday
HOURS = tuple(f"{hour:02}h" for hour in range(24))
VOCABULARIES: dict[Season, tuple[str, ...]] = {
    "hour": HOURS,
    "weekday": DAYS,
    "hour_of_week": tuple(f"{day} {hour}" for day in DAYS for hour in HOURS),
}


def with_season(columns: Columns, time_us: NDArray[np.int64], *seasons: Season) -> Columns:
    """Return columns with those of seasons, from event times in microseconds since the epoch, in UTC."""
    wanted = [season for season in COLUMNS if season in seasons]
    if not wanted:
        return columns
    hours = np.asarray(time_us, np.int64) // HOUR_US
    hour, day = hours % 24, (hours // 24 + EPOCH_DAY) % 7
    codes: dict[Season, NDArray[np.int64]] = {"hour": hour, "weekday": day, "hour_of_week": day * 24 + hour}
    return {
        **columns,
        **{
            COLUMNS[season]: Categorical(codes[season].astype(np.int32), VOCABULARIES[season])
            for season in wanted
        },
    }


def season_of(profile: Profile) -> Season:
    """Return the season that a profile was made by.

    It is the one that windows are compared by for as long as the profile is the reference, whatever is configured meanwhile.

    Raises
    ------
    ValueError
        If this release does not know it.
    """
    if profile.seasons is None:
        return "none"
    for season, name in COLUMNS.items():
        if profile.seasons.bins.name == name:
            return season
    raise ValueError(f"profile has an unknown season, {profile.seasons.bins.name!r}")


def reservation(settings: DetectConfig, reference: Profile) -> str:
    """Say in which way a reference is not watched as configured; empty where it is."""
    season, said = season_of(reference), []
    if season != settings.season:
        said.append(
            f'compared {_WORDS[season]}, as the reference was made: season = "{settings.season}" begins with the next one'
        )
    if settings.sequential and season != "none":
        said.append("not watched row by row, for the reference has seasons")
    return "; ".join(said)
