"""Baselines that read no feature: the last label, and what was most frequent, or in the middle, so far or lately.

Shapes: N rows, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.prequential_data import Stream
from learners.rows import Rows


class Last:
    """Repeats the last label known."""

    def __init__(self, stream: Stream) -> None:
        self.classes = len(stream.schema.classes)
        self.label = 0.0

    def learn(self, rows: Rows) -> None:
        """Remember the last label."""
        self.label = float(rows.target[-1])

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """Return the last label, for certain, for every row."""
        return constant(_one_hot(self.label, self.classes) if self.classes else self.label, len(rows))


class Middle:
    """Frequencies of the classes, or the median, of the latest labels."""

    def __init__(self, stream: Stream, window_rows: int | None = None) -> None:
        self.classes, self.window_rows = len(stream.schema.classes), window_rows
        self.label_N = np.empty(0)

    def learn(self, rows: Rows) -> None:
        """Remember the labels."""
        self.label_N = np.concatenate([self.label_N, rows.target])[-(self.window_rows or 0) :]

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """Return the frequencies, with one row more of each class, or the median."""
        if not self.classes:
            return constant(float(np.median(self.label_N)), len(rows))
        count_K = np.bincount(self.label_N.astype(np.int64), minlength=self.classes) + 1
        return constant(count_K / count_K.sum(), len(rows))


def last_at_once(stream: Stream, warm: int) -> NDArray[np.float64]:
    """Return the label of the row before, of the rows from `warm` on: what is known where labels come at once."""
    label_N = stream.rows.target[warm - 1 : -1]
    classes = len(stream.schema.classes)
    return np.stack([_one_hot(label, classes) for label in label_N]) if classes else label_N


def constant(value: float | NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """Return the same prediction for every row."""
    return np.repeat(np.asarray(value, dtype=np.float64)[None], rows, axis=0)


def _one_hot(label: float, classes: int) -> NDArray[np.float64]:
    return np.asarray(np.eye(classes)[int(label)])
