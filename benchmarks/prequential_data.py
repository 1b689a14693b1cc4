"""The streams of the prequential benchmark: rows in file order, what may be read of them, and how they are cut.

What tells time, repeats the target or is known only afterwards is left out. Texts, and numbers that only name things, are
categories. Of a stream of more rows than asked for every k-th is kept, k as small as
that allows. Every stream is cut into the same number of blocks of nearly equal size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from detectors.columns import Categorical, Column
from learners.evaluate import Measure
from learners.rows import Rows
from learners.schema import Schema

BLOCKS = 50  # of the whole stream
WARM = 10  # of these, learned by everybody before the first prediction


@dataclass(frozen=True)
class Source:
    """How a data set is read."""

    target: str
    measure: Measure  # by which contenders are compared
    left_out: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # whole numbers without an order


SOURCES = {
    "elec2": Source("class", "zero_one", ("date",)),
    # Few call it a success, so that the majority is hard to beat by errors: compared by log-loss.
    "bank_marketing": Source("y", "log", ("duration", "year")),
    "nsl_kdd": Source("is_attack", "zero_one", ("attack", "difficulty", "split")),
    "outdoor_objects": Source("object", "zero_one"),
    "avocado": Source("average_price", "absolute", ("date", "year")),
    "bike_sharing": Source("cnt", "absolute", ("dteday", "yr", "casual", "registered")),
    "dominicks_oj": Source("logmove", "absolute", ("week",), ("store", "brand")),
}


@dataclass(frozen=True, eq=False)
class Stream:
    """Labelled rows in the order in which they came."""

    name: str
    rows: Rows
    every: int  # rows of the data set of which one is kept
    schema: Schema
    measure: Measure

    def blocks(self, low: int, high: int) -> Rows:
        """Return the rows of blocks `low` to `high`, the last excluded."""
        first, last = (len(self.rows) * block // BLOCKS for block in (low, high))
        return self.rows.take(np.arange(first, last))


def read_stream(directory: Path, name: str, rows_max: int) -> Stream:
    """Return a data set as a stream."""
    source = SOURCES[name]
    frame = pd.read_parquet(directory / f"{name}.parquet")
    every = math.ceil(len(frame) / rows_max)
    frame = frame.iloc[::every]
    features = [column for column in frame.columns if column not in {source.target, *source.left_out}]
    columns = {column: _column(frame[column], column in source.names) for column in features}
    categorical = tuple(column for column in features if isinstance(columns[column], Categorical))
    numeric = tuple(column for column in features if column not in categorical)
    target = frame[source.target]
    if source.measure == "absolute":
        schema, target_N = Schema(numeric, categorical), target.to_numpy(np.float64)
    else:
        classes = np.unique(target)
        schema = Schema(numeric, categorical, "classification", tuple(map(str, classes)))
        target_N = np.searchsorted(classes, target).astype(np.float64)
    return Stream(name, Rows(columns, target_N, np.arange(len(frame))), every, schema, source.measure)


def _column(values: pd.Series, is_name: bool) -> Column:
    if is_name or not pd.api.types.is_numeric_dtype(values):
        return Categorical.of(None if pd.isna(value) else str(value) for value in values)
    return np.asarray(values, dtype=np.float64)
