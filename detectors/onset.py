"""Onset: where in a series the level changed.

Least squares, which is maximum likelihood for one step in Gaussian noise with both levels unknown: the split that
maximises sqrt(k (N-k) / N) * (mean after - mean before).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def contrasts(series: ArrayLike) -> NDArray[np.float64]:
    """Scaled rise at every split of a finite series of N values, shape (N-1,): entry k splits before k+1."""
    values = np.asarray(series, dtype=np.float64)
    total = values.size
    before = np.arange(1, total)
    centred = values - values.mean() if total else values
    # With the overall mean taken off, both means follow from one cumulative sum.
    rise: NDArray[np.float64] = -np.cumsum(centred)[:-1] * np.sqrt(total / (before * (total - before)))
    return rise


def onset(statistics: Sequence[float]) -> int:
    """Window in which the change behind an alarm most likely began.

    Parameters
    ----------
    statistics
        One value per window, such as excess nats, ending with the window of the alarm. Values that are not
        finite count as zero.

    Returns
    -------
    int
        Index of the first window after the most likely rise; the last window if the series never rises.

    Raises
    ------
    ValueError
        If there is no window.
    """
    if not len(statistics):
        raise ValueError("an onset needs at least one window")
    values = np.nan_to_num(np.asarray(statistics, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    rises = contrasts(values)
    rounding = np.finfo(np.float64).eps * values.size * np.abs(values).max()
    if not rises.size or rises.max() <= rounding:
        return values.size - 1
    return int(np.argmax(rises)) + 1
