"""Counting of pairs, compiled by numba. Import this module where it is used.

Shapes: N rows, W windows of equal size, F features, P pairs, S slabs, E edges.
"""

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def assign_numeric(
    column_N: NDArray[np.float64], edges_E: NDArray[np.float64], slab_N: NDArray[np.uint8]
) -> None:
    """Write the slab of each value; what is not finite goes behind the last one."""
    missing = edges_E.size + 1
    for row in range(column_N.size):
        x = column_N[row]
        slab = 0
        for edge in range(edges_E.size):
            slab += x >= edges_E[edge]
        slab_N[row] = slab if x - x == 0.0 else missing


@numba.njit(cache=True, nogil=True)
def count_pairs(
    slab_NF: NDArray[np.uint8], plan_P2: NDArray[np.intp], window_rows: int, counts_WPSS: NDArray[np.int64]
) -> None:
    """Add each row to the cell of every pair."""
    for window in range(counts_WPSS.shape[0]):
        counts_PSS = counts_WPSS[window]
        for row in range(window * window_rows, (window + 1) * window_rows):
            slab_F = slab_NF[row]
            for p in range(plan_P2.shape[0]):
                counts_PSS[p, slab_F[plan_P2[p, 0]], slab_F[plan_P2[p, 1]]] += 1
