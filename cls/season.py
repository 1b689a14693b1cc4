"""Season: the hour or weekday of events as a column, so that they are compared with the reference's of the same."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detectors.columns import Categorical, Columns

SEASON = "season of the event"  # no feature can be named so: it would have to be written in the schema
HOUR_US = 3600 * 10**6
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
EPOCH_DAY = 3  # 1 January 1970 was a Thursday
HOURS = tuple(f"{hour:02}h" for hour in range(24))
VOCABULARIES = {
    "hour": HOURS,
    "weekday": DAYS,
    "hour_of_week": tuple(f"{day} {hour}" for day in DAYS for hour in HOURS),
}


def with_season(
    columns: Columns, time_us: NDArray[np.int64], season: Literal["none", "hour", "weekday", "hour_of_week"]
) -> Columns:
    """Return columns with that of the season, from event times in microseconds since the epoch, in UTC."""
    if season == "none":
        return columns
    hours = np.asarray(time_us, np.int64) // HOUR_US
    hour, day = hours % 24, (hours // 24 + EPOCH_DAY) % 7
    code = {"hour": hour, "weekday": day, "hour_of_week": day * 24 + hour}[season]
    return {**columns, SEASON: Categorical(code.astype(np.int32), VOCABULARIES[season])}
