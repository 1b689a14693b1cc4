"""Numeric columns on a common scale, fitted once. Wide tables (an image has a column per pixel) stay cheap.

Shapes: N rows, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detectors.columns import Categorical, Columns, rows_of
from learners.errors import UnsuitableRowsError

CLIP = 10.0  # standardised values beyond are outliers: they count as this
_BLOCK = 1 << 18  # values standardised at once: they fit a processor's cache

Array = NDArray[np.float64]


def moments(columns: Columns, names: Sequence[str]) -> tuple[Array, Array]:
    """Return mean_F and std_F of the known values; both 0 where there is none.

    Raises
    ------
    UnsuitableRowsError
        If a feature is absent or categorical.
    """
    mean_F, std_F = np.zeros(len(names)), np.zeros(len(names))
    for f, column in enumerate(numbers(columns, names)):
        known = column[np.isfinite(column)]
        if known.size:
            mean_F[f] = known.mean()
            std_F[f] = np.sqrt(np.square(known - mean_F[f]).mean())
    return mean_F, std_F


def positive(std_F: Array, mean_F: Array) -> Array:
    """Return the standard deviations as scales: 1 where a feature is constant up to rounding."""
    return np.where(std_F > 1e-9 * np.abs(mean_F), std_F, 1.0)


def standardise(
    columns: Columns, names: Sequence[str], mean_F: Array, scale_F: Array, clip: float = CLIP
) -> NDArray[np.float32]:
    """Return x_NF, within plus and minus `clip`, NaN where the value is missing (not finite).

    Raises
    ------
    UnsuitableRowsError
        If a feature is absent or categorical.
    """
    raw, rows = numbers(columns, names), rows_of(columns)
    x_NF = np.empty((rows, len(names)), dtype=np.float32)
    block = max(_BLOCK // max(len(names), 1), 1)
    for first in range(0, rows if raw else 0, block):
        rows_here = slice(first, first + block)
        parts = raw if rows <= block else [column[rows_here] for column in raw]
        block_FB = np.concatenate(parts).reshape(len(names), -1)
        block_FB[~np.isfinite(block_FB)] = np.nan
        block_FB -= mean_F[:, None]
        block_FB /= scale_F[:, None]
        x_NF[rows_here] = np.clip(block_FB, -clip, clip, out=block_FB).T
    return x_NF


def numbers(columns: Columns, names: Sequence[str]) -> list[Array]:
    """Return the numeric columns called `names`.

    Raises
    ------
    UnsuitableRowsError
        If one is absent or categorical.
    """
    found = []
    for name in names:
        column = columns.get(name)
        if column is None or isinstance(column, Categorical):
            raise UnsuitableRowsError(f"feature {name!r} must be a numeric column")
        found.append(column)
    return found
