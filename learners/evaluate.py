"""How wrong a model is, row by row, and how sure it was."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from learners.models.base import Model
from learners.rows import Rows

Measure = Literal["auto", "absolute", "zero_one", "log"]
_LEAST_PROBABILITY = 1e-12


def losses(model: Model, rows: Rows, measure: Measure = "auto") -> NDArray[np.float64]:
    """Return each row's loss; NaN where it has no label.

    Parameters
    ----------
    model
        Predicts in eval mode; its mode is left as it was.
    rows
        N rows.
    measure
        absolute: absolute error in target units (regression; its `auto`). zero_one: 1 where the most probable class
        is wrong (classification; its `auto`). log: negative log-likelihood of the class in nats.

    Raises
    ------
    ValueError
        If the measure does not fit the task.
    """
    return row_losses(model.predict(rows.columns), rows.target, measure)


def uncertainty(prediction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each row's entropy in nats of (N, K) class probabilities; NaN for values, which state no spread."""
    if prediction.ndim == 1:
        return np.full(len(prediction), np.nan)
    return np.asarray(-(prediction * np.log(np.maximum(prediction, _LEAST_PROBABILITY))).sum(axis=1))


def row_losses(
    prediction: NDArray[np.float64], target: NDArray[np.float64], measure: Measure = "auto"
) -> NDArray[np.float64]:
    """Return each row's loss of a prediction: (N,) values, or (N, K) class probabilities. See `losses`."""
    classes = prediction.ndim == 2
    name = ("zero_one" if classes else "absolute") if measure == "auto" else measure
    if (name == "absolute") == classes:
        raise ValueError(f"measure {name!r} does not fit a {'classification' if classes else 'regression'}")
    if not classes:
        return np.abs(prediction - target)
    labelled_N = np.isfinite(target)
    class_N = np.where(labelled_N, target, 0).astype(np.int64)
    if name == "zero_one":
        loss_N = (prediction.argmax(axis=1) != class_N).astype(np.float64)
    else:
        loss_N = -np.log(np.maximum(prediction[np.arange(len(target)), class_N], _LEAST_PROBABILITY))
    return np.where(labelled_N, loss_N, np.nan)
