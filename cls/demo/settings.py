"""The demo's configuration: one stream, deciding by itself. Benchmarks start from it, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cls.config import Config
from cls.demo.flights import CATEGORICAL, NUMERIC
from cls.settings.toml_text import toml_key, toml_value

STREAM = "flights"

TABLES: dict[str, dict[str, Any]] = {
    "schema": {
        "numeric": list(NUMERIC),
        "categorical": list(CATEGORICAL),
        "key": "id",
        "event_time": "time",
        "target": "air_time",
        "label_time": "landed",
    },
    # windows of about five days: the weather of one day is not a change of climate
    "detect": {"window_rows": 5000, "reference_rows": 20000},
    "update": {
        "cadence": "continuous",
        "min_rows": 200,
        "cooldown": "1h",
        "latency": "1h",  # each update is charged an hour of stream time, during which the old champion serves
        "bootstrap_rows": 10**9,  # the first model is asked for, at the end of January
        "device_seconds_per_1k_passes": 0.1,  # a fixed price, so that the replay does not depend on the machine
        "budget_device_seconds_per_day": 0.2,  # 2,000 sample passes: a tenth of what monthly retraining takes
        # Fisher information adds up over updates: a little of it each time, and much of it once
        "overrides": {"fisher_rows": 128},
        "bootstrap_overrides": {"epochs": 10.0, "fisher_rows": 2048},
    },
    # a hundred gate rows tell the mean loss to about a tenth: a finer margin would reject at random
    "gate": {
        "fresh_rows": 1000,
        "margin": 0.2,
        "retained_rows": 1000,
        "retained_slices": 3,
        "retained_margin": 0.5,
    },
    "rollout": {"light": True, "watch_rows": 500},
}


def flights_config(home: str, **sections: dict[str, Any]) -> Config:
    """Return the configuration of the flights stream.

    Parameters
    ----------
    home
        Directory of everything CLS keeps.
    sections
        Fields of the stream's tables (`update`, `gate`, ...) to change.
    """
    names = {**TABLES, **sections}
    tables = {name: {**TABLES.get(name, {}), **sections.get(name, {})} for name in names}
    values = {"home": home, "streams": {STREAM: {"task": "regression", **tables}}}
    return Config.model_validate(values, by_alias=True, by_name=False)


def write_config(home: Path, *, ingest: str, serve: str) -> Path:
    """Write the demo's cls.toml; returns its path."""
    home.mkdir(parents=True, exist_ok=True)
    lines = ['home = "."', "", "[http]", f"ingest = {toml_value(ingest)}", f"serve = {toml_value(serve)}", ""]
    lines += ["[worker]", "poll_seconds = 0.02", ""]  # the feeder waits for every update
    lines += [f"[streams.{STREAM}]", 'task = "regression"', ""]
    for name, fields in TABLES.items():
        lines += [f"[streams.{STREAM}.{name}]"]
        lines += [f"{toml_key(key)} = {toml_value(value)}" for key, value in fields.items()]
        lines += [""]
    path = home / "cls.toml"
    path.write_text("\n".join(lines))
    return path
