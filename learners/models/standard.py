"""Numeric columns on a common scale, fitted once. Wide tables (an image has a column per pixel) stay cheap.

Shapes: N rows, F features.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detectors.columns import Categorical, Column, Columns, rows_of
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
        If one is absent or holds no numbers.
    """
    found = []
    for name in names:
        column = present(columns, name)
        if isinstance(column, Categorical):
            raise UnsuitableRowsError(
                f"feature {name!r} is numeric, and its column categorical: pass numbers, or name it in schema.categorical"
            )
        values = np.asarray(column)
        if values.dtype.kind not in "biuf":
            raise UnsuitableRowsError(
                f"feature {name!r} is numeric, and its column holds no numbers but {values.dtype}: convert it, as by "
                "astype(float), or pass Categorical.of(strings) and name it in schema.categorical"
            )
        found.append(values)
    return found


def present(columns: Columns, name: str) -> Column:
    """Return the column called `name`.

    Raises
    ------
    UnsuitableRowsError
        If it is absent, naming the nearest one.
    """
    column = columns.get(name)
    if column is None:
        near = difflib.get_close_matches(name, map(str, columns), n=1)
        some = ", ".join(map(str, [*columns][:8])) + (", ..." if len(columns) > 8 else "")
        hint = f"did you mean {near[0]!r}?" if near else f"there are {some or 'none'}"
        raise UnsuitableRowsError(f"feature {name!r} is missing from the columns; {hint}")
    return column
