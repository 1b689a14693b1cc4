"""Predictions, labels and losses as columns and numbers. Torch-free: the daemon sees them as the prediction log holds them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cls.config import StreamConfig
from detectors.columns import Categorical, Column, Columns

Floats = NDArray[np.float64]

PREDICTION, UNCERTAINTY, LABEL = "prediction", "uncertainty", "label"


def output_columns(stream: StreamConfig, prediction: Floats, uncertainty: Floats) -> Columns:
    """Return predictions as columns: values, or classes and their uncertainty."""
    if stream.task == "regression":
        return {PREDICTION: prediction}
    return {PREDICTION: _classes(stream, prediction), UNCERTAINTY: uncertainty}


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
