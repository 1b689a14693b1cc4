"""The sliding window's inner loop, compiled by numba. Import this module where it is used.

Shapes: N rows, F features, W rows per window, K bins (padded to the largest feature).

With Jeffreys' half counts the divergence of a feature's values is, n of them being there and q being the reference's shares,

    KL = S / (n + K/2) - ln(n + K/2),    S = sum_k (c_k + 1/2) (ln(c_k + 1/2) - ln q_k)

so that a row that comes and one that goes change two terms of S, each looked up, and S is compared with what is critical at this n.
S is an integer, in units of a small part of a nat: sums of integers have no rounding that builds up, and do not depend on the rows
that have gone.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Law(NamedTuple):
    """What windows are judged by; constant."""

    gain_W: Ints  # of S when a bin that holds c rows gets another, less the cost
    cost_FK: Ints  # -ln q_k; 0 for missing
    missing_F: NDArray[np.intp]  # the bin of what is missing
    critical_FN: Ints  # S that is critical when n values are there, n = 0 to W


class Window(NamedTuple):
    """The last rows; changes in place."""

    ring_FW: NDArray[np.int32]  # bins
    place: Ints  # rows in the ring, where the next one goes
    counts_FK: Ints
    sum_F: Ints  # S


@numba.njit(cache=True, nogil=True)
def slide(bin_FN: NDArray[np.int32], first: int, window: Window, law: Law) -> int:
    """Take rows from `first` on, changing `window`, until it is full and critical.

    Returns
    -------
    The row that made it so, behind which none was taken, or -1.
    """
    # Arrays as locals: numba counts references at every access to a tuple's field.
    ring_FW, place, counts_FK, sum_F = window
    gain_W, cost_FK, missing_F, critical_FN = law
    features, size = ring_FW.shape
    while first < bin_FN.shape[1]:
        held = place[0]
        stop = min(bin_FN.shape[1], first + (size - held if held < size else size))
        alarm = -1
        # Feature by feature, as the counts of one stay in the cache.
        if held < size:
            for f in range(features):
                _fill(f, bin_FN, first, stop, counts_FK, sum_F, gain_W, cost_FK, missing_F[f])
                critical = critical_FN[f, size - counts_FK[f, missing_F[f]]]
                if held + stop - first == size and sum_F[f] >= critical:
                    alarm = stop - 1
        else:
            before = (counts_FK.copy(), sum_F.copy())
            end = stop
            for f in range(features):
                found = _roll(
                    f,
                    bin_FN,
                    first,
                    end,
                    ring_FW,
                    place[1],
                    counts_FK,
                    sum_F,
                    gain_W,
                    cost_FK,
                    missing_F[f],
                    critical_FN,
                )
                if found >= 0:
                    alarm, end = found, found + 1
            if end < stop:  # the first features have overrun the alarm
                counts_FK[:], sum_F[:] = before
                stop = end
                for f in range(features):
                    _roll(
                        f,
                        bin_FN,
                        first,
                        stop,
                        ring_FW,
                        place[1],
                        counts_FK,
                        sum_F,
                        gain_W,
                        cost_FK,
                        missing_F[f],
                        critical_FN,
                    )
        _keep(bin_FN, first, stop, ring_FW, place)
        if alarm >= 0:
            return alarm
        first = stop
    return -1


@numba.njit(cache=True, nogil=True)
def _fill(
    f: int,
    bin_FN: NDArray[np.int32],
    first: int,
    stop: int,
    counts_FK: Ints,
    sum_F: Ints,
    gain_W: Ints,
    cost_FK: Ints,
    missing: int,
) -> None:
    """Add rows to a window that has room for them."""
    for row in range(first, stop):
        k = bin_FN[f, row]
        if k != missing:
            sum_F[f] += gain_W[counts_FK[f, k]] + cost_FK[f, k]
        counts_FK[f, k] += 1


@numba.njit(cache=True, nogil=True)
def _roll(
    f: int,
    bin_FN: NDArray[np.int32],
    first: int,
    stop: int,
    ring_FW: NDArray[np.int32],
    at: int,
    counts_FK: Ints,
    sum_F: Ints,
    gain_W: Ints,
    cost_FK: Ints,
    missing: int,
    critical_FN: Ints,
) -> int:
    """Put rows in the place of a full window's oldest, from slot `at` on, until the feature is critical; return that row, or -1."""
    size, total = ring_FW.shape[1], sum_F[f]
    critical = critical_FN[f, size - counts_FK[f, missing]]
    for row in range(first, stop):
        new, old = bin_FN[f, row], ring_FW[f, at]
        at = at + 1 if at + 1 < size else 0
        if new == old:
            continue
        counts_FK[f, old] -= 1
        if old != missing:
            total -= gain_W[counts_FK[f, old]] + cost_FK[f, old]
        if new != missing:
            total += gain_W[counts_FK[f, new]] + cost_FK[f, new]
        counts_FK[f, new] += 1
        if new == missing or old == missing:
            critical = critical_FN[f, size - counts_FK[f, missing]]
        if total >= critical:
            sum_F[f] = total
            return row
    sum_F[f] = total
    return -1


@numba.njit(cache=True, nogil=True)
def _keep(bin_FN: NDArray[np.int32], first: int, stop: int, ring_FW: NDArray[np.int32], place: Ints) -> None:
    """Remember the bins of rows, for when they go."""
    features, size = ring_FW.shape
    for f in range(features):
        at = place[1]
        for row in range(first, stop):
            ring_FW[f, at] = bin_FN[f, row]
            at = at + 1 if at + 1 < size else 0
    place[0] = min(place[0] + stop - first, size)
    place[1] = (place[1] + stop - first) % size


@numba.njit(cache=True, nogil=True)
def bins_of_numbers(
    column_N: NDArray[np.float64], edges_E: NDArray[np.float64], missing: int, bin_N: NDArray[np.int32]
) -> None:
    """Bin k holds edges[k - 1] <= x < edges[k]; what is not finite goes to `missing`. See `detectors.kernels.count_numeric`."""
    for row in range(column_N.size):
        x = column_N[row]
        k = 0
        for edge in range(edges_E.size):
            k += x >= edges_E[edge]
        bin_N[row] = k if x - x == 0.0 else missing
