"""Real streams from the data directory, as columns: the reading that every drift benchmark shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from detectors.columns import Categorical, Column, Columns

TARGETS = {
    "avocado": "average_price",
    "bank_marketing": "y",
    "bike_sharing": "cnt",
    "elec2": "class",
    "employment_ma": "employed",
    "metro_traffic": "traffic_volume",
    "nsl_kdd": "is_attack",
}
# What tells time, repeats the target, or is known only afterwards: their drift is certain and says nothing.
LEFT_OUT = {
    "avocado": ("date", "year"),
    "bank_marketing": ("duration", "year"),
    "bike_sharing": ("dteday", "yr", "casual", "registered"),
    "elec2": ("date",),
    "employment_ma": ("year",),
    "metro_traffic": ("date_time",),
    "nsl_kdd": ("attack", "difficulty", "split"),
}


def read_frame(directory: Path, name: str) -> pd.DataFrame:
    """Return a whole data set in its time order."""
    return pd.read_parquet(directory / f"{name}.parquet")


def features_of(frame: pd.DataFrame, name: str) -> Columns:
    """Return the features of a data set: numbers, and texts as categories."""
    left_out = {*LEFT_OUT[name], TARGETS[name]}
    return {column: _column(frame[column]) for column in frame.columns if column not in left_out}


def _column(values: pd.Series) -> Column:
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy(np.float64)
    return Categorical.of(None if pd.isna(value) else str(value) for value in values)
