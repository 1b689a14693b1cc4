"""Predictions, labels and losses as columns and numbers. Torch-free: the daemon sees them as the prediction log holds them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cls.config import StreamConfig
from detectors.columns import Categorical, Column, Columns
from detectors.profile import Profile

Floats = NDArray[np.float64]

PREDICTION, UNCERTAINTY, LABEL = "prediction", "uncertainty", "label"


def output_columns(stream: StreamConfig, prediction: Floats, uncertainty: Floats) -> Columns:
    """Return predictions as columns: values, or classes and their uncertainty."""
    if stream.task == "regression":
        return {PREDICTION: prediction}
    return {PREDICTION: _classes(stream, prediction), UNCERTAINTY: uncertainty}


def comparable(reference: Profile, counts: NDArray[np.int64]) -> tuple[Profile, NDArray[np.int64]]:
    """Return what a reference and a window's counts of predictions both have.

    Predictions that came with the events may lack an uncertainty, which says nothing about the model: where some do, on either side, the
    classes are compared alone.
    """
    names = [bins.name for bins in reference.features]
    if UNCERTAINTY not in names or not counted_without(reference, counts + reference.counts):
        return reference, counts
    kept = names.index(PREDICTION)
    part = slice(reference.offsets[kept], reference.offsets[kept + 1])
    alone = replace(
        reference,
        features=(reference.features[kept],),
        counts=reference.counts[part],
        dispersion=(reference.dispersion[kept],),
        missing_dispersion=(reference.missing_dispersion[kept],),
        dependence_FF=reference.dependence_FF[kept : kept + 1, kept : kept + 1],
    )
    return alone, counts[part]


def counted_without(reference: Profile, counts: NDArray[np.int64]) -> int:
    """Return how many rows among counts of a classifier's predictions have no uncertainty."""
    parts = zip(reference.features, reference.split(counts), strict=True)
    return sum(int(part[-1]) for bins, part in parts if bins.name == UNCERTAINTY)


def label_columns(stream: StreamConfig, value: Floats) -> Columns:
    """Return labels as columns: values, or classes."""
    column: Column = value if stream.task == "regression" else _classes(stream, value)
    return {LABEL: column}


def row_losses(stream: StreamConfig, prediction: Floats, value: Floats) -> Floats:
    """Return the loss of each row, NaN where nothing was predicted: absolute error, or 0/1."""
    if stream.task == "regression":
        return np.abs(prediction - value)
    return np.where(np.isfinite(prediction), (prediction != value).astype(np.float64), np.nan)


def _classes(stream: StreamConfig, index: Floats) -> Categorical:
    classes = stream.columns.classes
    known = np.isfinite(index) & (index >= 0) & (index < len(classes))
    return Categorical(np.where(known, index, -1).astype(np.int32), tuple(classes))
