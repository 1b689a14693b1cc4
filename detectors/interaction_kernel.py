"""The iterative proportional fit of `detectors.interaction`, compiled by numba. Import this module where it is used.

Shapes: P pairs, I x J slabs; one pair's tables are (I, J).
"""

import numba
import numpy as np
from numpy.typing import NDArray

from detectors.interaction import PRECISION, ROOTS, ROUNDS, STEPS


@numba.njit(cache=True, nogil=True)
def _clear(w: NDArray[np.float64], r: NDArray[np.float64], size_i: int, size_j: int) -> tuple[int, int]:
    """Empty the slabs that one sample lacks; return how many of each feature remain."""
    changed = True
    rows = columns = 0
    while changed:
        changed = False
        rows = columns = 0
        for i in range(size_i):
            a = b = 0.0
            for j in range(size_j):
                a += w[i, j]
                b += r[i, j]
            if a > 0 and b > 0:
                rows += 1
            elif a + b > 0:
                w[i, :] = 0.0
                r[i, :] = 0.0
                changed = True
        for j in range(size_j):
            a = b = 0.0
            for i in range(size_i):
                a += w[i, j]
                b += r[i, j]
            if a > 0 and b > 0:
                columns += 1
            elif a + b > 0:
                w[:, j] = 0.0
                r[:, j] = 0.0
                changed = True
    return rows, columns


@numba.njit(cache=True, nogil=True)
def _rake(counts: NDArray[np.float64], fitted: NDArray[np.float64], size_i: int, size_j: int) -> float:
    """Scale rows, then columns, to the sums of the counts; return the largest relative change."""
    change = 0.0
    for i in range(size_i):
        a = b = 0.0
        for j in range(size_j):
            a += counts[i, j]
            b += fitted[i, j]
        if b > 0:
            a /= b
            change = max(change, abs(a - 1))
            for j in range(size_j):
                fitted[i, j] *= a
    for j in range(size_j):
        a = b = 0.0
        for i in range(size_i):
            a += counts[i, j]
            b += fitted[i, j]
        if b > 0:
            a /= b
            change = max(change, abs(a - 1))
            for i in range(size_i):
                fitted[i, j] *= a
    return change


@numba.njit(cache=True, nogil=True)
def fit(
    window: NDArray[np.float64],
    reference: NDArray[np.float64],
    fitted_window: NDArray[np.float64],
    fitted_reference: NDArray[np.float64],
    degrees: NDArray[np.int64],
) -> None:
    """Do as `fit_numpy` does, pair by pair, each until it stands."""
    pairs, size_i, size_j = window.shape
    for p in range(pairs):
        w, r, fitted_w, fitted_r = window[p], reference[p], fitted_window[p], fitted_reference[p]
        rows, columns = _clear(w, r, size_i, size_j)
        degrees[p] = max(rows - 1, 0) * max(columns - 1, 0)
        for i in range(size_i):
            for j in range(size_j):
                fitted_w[i, j] = fitted_r[i, j] = w[i, j] + r[i, j]
        if not degrees[p]:
            continue
        for _ in range(ROUNDS):
            change = max(_rake(w, fitted_w, size_i, size_j), _rake(r, fitted_r, size_i, size_j))
            for i in range(size_i):
                for j in range(size_j):
                    fitted = fitted_w[i, j] + fitted_r[i, j]
                    if fitted > 0:
                        factor = (w[i, j] + r[i, j]) / fitted
                        fitted_w[i, j] *= factor
                        fitted_r[i, j] *= factor
                        change = max(change, abs(factor - 1))
            if change < PRECISION:
                break


@numba.njit(cache=True, nogil=True)
def _mean(rows: float, table: NDArray[np.float64]) -> float:
    """Mean deviance of a Poisson count that is expected to be `rows`."""
    if rows >= ROOTS * ROOTS:
        return 1 + 1 / (6 * rows)
    place = np.sqrt(rows) * STEPS
    k = int(place)
    return float(table[k] + (place - k) * (table[k + 1] - table[k]))


@numba.njit(cache=True, nogil=True)
def deviances(
    window: NDArray[np.float64],
    reference: NDArray[np.float64],
    fitted_window: NDArray[np.float64],
    fitted_reference: NDArray[np.float64],
    table: NDArray[np.float64],
    deviance_P2: NDArray[np.float64],
) -> None:
    """Do as `deviances_numpy` does."""
    pairs, size_i, size_j = window.shape
    column_w, column_r = np.empty(size_j), np.empty(size_j)
    for p in range(pairs):
        w, r, fitted_w, fitted_r = window[p], reference[p], fitted_window[p], fitted_reference[p]
        column_w[:] = 0.0
        column_r[:] = 0.0
        total = mean = all_w = all_r = 0.0
        for i in range(size_i):
            row_w = row_r = 0.0
            for j in range(size_j):
                a, b = fitted_w[i, j], fitted_r[i, j]
                total += a - w[i, j] + b - r[i, j]
                if w[i, j] > 0 and a > 0:
                    total += w[i, j] * np.log(w[i, j] / a)
                if r[i, j] > 0 and b > 0:
                    total += r[i, j] * np.log(r[i, j] / b)
                mean += _mean(a, table) + _mean(b, table) - _mean(a + b, table)
                row_w += a
                row_r += b
                column_w[j] += a
                column_r[j] += b
            mean += _mean(row_w + row_r, table) - _mean(row_w, table) - _mean(row_r, table)
            all_w += row_w
            all_r += row_r
        for j in range(size_j):
            a, b = column_w[j], column_r[j]
            mean += _mean(a + b, table) - _mean(a, table) - _mean(b, table)
        mean += _mean(all_w, table) + _mean(all_r, table) - _mean(all_w + all_r, table)
        deviance_P2[p, 0] = 2 * max(total, 0.0)
        deviance_P2[p, 1] = mean
