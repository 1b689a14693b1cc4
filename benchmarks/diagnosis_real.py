"""Real streams that drift by themselves, with faults injected into windows of their later rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.diagnosis_world import Change, Model, Numbers, numbers, some, swapped, texts
from detectors.columns import Categorical, Column, Columns, rows_of, take
from detectors.detector import KLDetector
from detectors.diagnosis import MARGIN, diagnose, worth_a_look
from detectors.loss import fit_losses

WINDOW = 500
WINDOWS = 12  # spread over the second half
DETECTOR = KLDetector()


@dataclass(frozen=True)
class Stream:
    """What of a file is used."""

    target: str
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    faults: dict[str, tuple[tuple[str, ...], Change]]  # name -> (features that may be accused, change)


STREAMS = {
    "bike_sharing": Stream(
        "cnt",
        ("temp", "hum", "windspeed", "hr"),
        ("season", "weekday", "workingday", "weathersit"),
        {
            "temp times 41, back to degrees": (("temp",), numbers("temp", lambda x: 41 * x)),
            "hum times 100": (("hum",), numbers("hum", lambda x: 100 * x)),
            "hum stuck": (("hum",), numbers("hum", lambda x: np.full_like(x, 0.62))),
            "windspeed missing": (("windspeed",), numbers("windspeed", lambda x: x * np.nan)),
            "temp -1 in 10%": (("temp",), some("temp", 0.1, lambda _: -1.0)),
            "hum and temp swapped": (("hum", "temp"), swapped("hum", "temp")),
            "weathersit spelt 1.0": (("weathersit",), texts("weathersit", lambda v: f"{v}.0")),
            "weekday 6 renamed sat": (("weekday",), texts("weekday", lambda v: {"6": "sat"}.get(v, v))),
        },
    ),
    "avocado": Stream(
        "average_price",
        ("total_volume", "plu4046", "plu4225", "total_bags"),
        ("type", "region"),
        {
            "volume in thousands": (("total_volume",), numbers("total_volume", lambda x: x / 1000)),
            "bags sign flipped": (("total_bags",), numbers("total_bags", lambda x: -x)),
            "volume in kilograms": (("total_volume",), numbers("total_volume", lambda x: x / 2.204623)),
            "plu4046 rounded to thousands": (("plu4046",), numbers("plu4046", lambda x: np.round(x, -3))),
            "bags filled with 100000 in 15%": (
                ("total_bags",),
                some("total_bags", 0.15, lambda _: 100_000.0),
            ),
            "type in capitals": (("type",), texts("type", str.upper)),
            "organic renamed bio": (("type",), texts("type", lambda v: {"organic": "bio"}.get(v, v))),
            "plu4225 missing 50%": (("plu4225",), some("plu4225", 0.5, lambda x: x * np.nan)),
        },
    ),
    "metro_traffic": Stream(
        "traffic_volume",
        ("temp", "clouds_all", "hour"),
        ("weather_main",),
        {
            "kelvin to Celsius": (("temp",), numbers("temp", lambda x: x - 273.15)),
            "kelvin to Fahrenheit": (("temp",), numbers("temp", lambda x: (x - 273.15) * 1.8 + 32)),
            "temp 0 in 10%": (("temp",), some("temp", 0.1, lambda _: 0.0)),
            "temp rounded to tens": (("temp",), numbers("temp", lambda x: np.round(x, -1))),
            "clouds as a share": (("clouds_all",), numbers("clouds_all", lambda x: x / 100)),
            "weather in capitals": (("weather_main",), texts("weather_main", str.upper)),
            "Clouds renamed": (
                ("weather_main",),
                texts("weather_main", lambda v: {"Clouds": "Overcast"}.get(v, v)),
            ),
        },
    ),
}


UNTOUCHED = (
    "bike_sharing",
    "avocado",
    "metro_traffic",
    "elec2",
    "employment_ma",
    "bank_marketing",
    "nsl_kdd",
    "dominicks_oj",
    "hacker_news",
)


@dataclass(frozen=True)
class RealTrial:
    """One window, as it is or with a fault."""

    injection: str  # "" for none
    truth: str
    given: str
    named: bool
    summary: str

    @property
    def right(self) -> bool:
        """Whether the kind is right and the feature named."""
        return self.given == self.truth and self.named


def real_trials(name: str, directory: Path) -> list[RealTrial]:
    """Train on the first quarter, take the second as reference, and look at windows of the rest."""
    stream = STREAMS[name]
    columns, target_N = read(name, stream, directory)
    rows = target_N.size
    quarter, half = rows // 4, rows // 2
    model = Model.fit(take(columns, slice(0, quarter)), target_N[:quarter], 0)
    reference = take(columns, slice(quarter, half))
    profile = DETECTOR.profile(reference)
    loss_N = model.loss(reference, target_N[quarter:half])
    losses = fit_losses(profile, reference, loss_N, seed=0)
    rng = np.random.default_rng(1)

    def trial(injection: str, features: tuple[str, ...], window: Columns, actual: float) -> RealTrial:
        counts = profile.count(window)
        drift = DETECTOR.compare(profile, counts)
        truth = "quality" if injection else "harmful" if actual > (1 + MARGIN) * loss_N.mean() else "harmless"
        if not worth_a_look(drift):
            return RealTrial(injection, truth, "no alarm", False, "")
        found = diagnose(profile, drift, window, losses.estimate(profile, counts))
        given = found.kind if drift.alarm or found.evident else "no alarm"
        accused = {
            finding.name for finding in found.features if finding.fault is not None and given == "quality"
        }
        right = bool(accused) and accused <= set(features) if injection else not accused
        return RealTrial(injection, truth, given, right, found.summary)

    trials = []
    for start in np.linspace(half, rows - WINDOW, WINDOWS).astype(int).tolist():
        part = slice(start, start + WINDOW)
        window = take(columns, part)
        actual = float(model.loss(window, target_N[part]).mean())
        trials.append(trial("", (), window, actual))
        trials += [
            trial(fault, features, change(window, rng), actual)
            for fault, (features, change) in stream.faults.items()
        ]
    return sorted(trials, key=lambda each: each.injection)


@dataclass(frozen=True)
class Untouched:
    """Windows of a stream as it is."""

    stream: str
    windows: int
    alarms: int
    faults: tuple[str, ...]  # sentences of those that were called faults


def untouched(name: str, directory: Path) -> Untouched:
    """Diagnose up to sixty windows after each of two references, every column a feature."""
    columns = everything(directory / f"{name}.parquet")
    rows = rows_of(columns)
    windows, alarms, faults = 0, 0, []
    for low, high in ((0, rows // 4), (rows // 4, rows // 2)):
        profile = DETECTOR.profile(take(columns, slice(low, high)))
        for start in range(high, rows - WINDOW, max(WINDOW, (rows - high) // 60)):
            window = take(columns, slice(start, start + WINDOW))
            drift = DETECTOR.compare(profile, profile.count(window))
            windows, alarms = windows + 1, alarms + drift.alarm
            found = diagnose(profile, drift, window) if worth_a_look(drift) else None
            if found is not None and found.fault is not None and (drift.alarm or found.evident):
                faults.append(found.fault)
    return Untouched(name, windows, alarms, tuple(faults))


def everything(path: Path) -> dict[str, Column]:
    """Return all columns of a file but its times."""
    table = pq.read_table(path)
    if "date" in table.column_names and pa.types.is_temporal(table["date"].type):
        table = table.sort_by("date")
    columns: dict[str, Column] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            columns[name] = column.to_numpy(zero_copy_only=False).astype(np.float64)
        elif not pa.types.is_temporal(column.type):
            columns[name] = Categorical.of([None if v is None else str(v) for v in column.to_pylist()])
    return columns


def read(name: str, stream: Stream, directory: Path) -> tuple[dict[str, Column], Numbers]:
    """Return a file's rows in order of time."""
    table = pq.read_table(directory / f"{name}.parquet")
    if name == "avocado":
        table = table.sort_by("date")
    if name == "metro_traffic":
        hour = pa.compute.hour(table["date_time"])
        table = table.append_column("hour", hour)
    columns: dict[str, Column] = {
        feature: np.asarray(table[feature].to_numpy(), dtype=np.float64) for feature in stream.numeric
    }
    columns |= {
        feature: Categorical.of([None if v is None else str(v) for v in table[feature].to_pylist()])
        for feature in stream.categorical
    }
    assert rows_of(columns) == table.num_rows
    return columns, np.asarray(table[stream.target].to_numpy(), dtype=np.float64)
