"""KSWIN, compiled: river's rule two hundred times faster, so that its run length can be measured at all.

Raab, Heusinger and Schleif 2020. Shapes: N rows, F features. Of the last 100 values of a feature the newest 30 are compared with
30 drawn without replacement from the 70 before, by the two-sample Kolmogorov-Smirnov statistic, after every row. With 30
values on either side the statistic is a whole number of thirtieths, and so a threshold on the p-value is one on that number.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import stats

from detectors.columns import Columns
from detectors.monitors_river import scaled, scales_of

WINDOW, RECENT = 100, 30  # river's defaults


class Kswin:
    """KSWIN per feature; any of them alarms, and then all start afresh.

    Parameters
    ----------
    steps
        Alarm from this many thirtieths on.
    """

    def __init__(self, reference: Columns, steps: int, seed: int = 0) -> None:
        self._scales = scales_of(reference)
        self._steps = steps
        self._buffer_FW = np.zeros((len(self._scales), WINDOW))
        self._filled_F = np.zeros(len(self._scales), dtype=np.int64)
        _seed(seed)

    def update(self, columns: Columns) -> Sequence[int]:
        """Take rows; see `detectors.evaluation.Monitor`."""
        return _run(scaled(self._scales, columns), self._buffer_FW, self._filled_F, self._steps).tolist()


@cache
def p_value(steps: int) -> float:
    """Return the p-value of so many thirtieths, exactly."""
    low = np.arange(RECENT, dtype=float)
    return float(stats.ks_2samp(low, low + steps, method="exact").pvalue)


@njit(cache=True)
def _seed(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002  # the compiled generator has no other seed


@njit(cache=True)
def _run(
    values_NF: NDArray[np.float64], buffer_FW: NDArray[np.float64], filled_F: NDArray[np.int64], steps: int
) -> NDArray[np.int64]:
    alarms = np.empty(values_NF.shape[0], dtype=np.int64)
    found = 0
    pool = np.arange(WINDOW - RECENT)
    for n in range(values_NF.shape[0]):
        alarm = False
        for f in range(values_NF.shape[1]):
            value = values_NF[n, f]
            if not np.isfinite(value):
                continue
            window = buffer_FW[f]
            if filled_F[f] < WINDOW:
                window[filled_F[f]] = value
                filled_F[f] += 1
            else:
                window[:-1] = window[1:]
                window[-1] = value
            if filled_F[f] == WINDOW and _statistic(window, pool) >= steps:
                alarm = True
        if alarm:
            alarms[found] = n
            found += 1
            filled_F[:] = 0
    return alarms[:found]


@njit(cache=True)
def _statistic(window: NDArray[np.float64], pool: NDArray[np.int64]) -> int:
    older = np.empty(RECENT)
    for i in range(RECENT):  # a draw without replacement: the first steps of a shuffle
        j = np.random.randint(i, pool.size)  # noqa: NPY002  # the compiled generator
        pool[i], pool[j] = pool[j], pool[i]
        older[i] = window[pool[i]]
    older.sort()
    newer = np.sort(window[-RECENT:])
    i = j = largest = 0
    while i < RECENT and j < RECENT:
        value = min(older[i], newer[j])
        while i < RECENT and older[i] <= value:
            i += 1
        while j < RECENT and newer[j] <= value:
            j += 1
        largest = max(largest, abs(i - j))
    return largest
