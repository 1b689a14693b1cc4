"""Counting into many trees, compiled by numba. Import this module where it is used.

Shapes: N rows, F features, R trees; T splits, L leaves and A features of all trees, one tree after the other; W windows of equal
size, C cells.
"""

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def count_trees(
    values_FN: NDArray[np.float64],
    window_rows: int,
    depth_R: NDArray[np.intp],
    feature_T: NDArray[np.uintp],
    cut_T: NDArray[np.float64],
    cell_L: NDArray[np.intp],
    axes_R: NDArray[np.intp],
    size_R: NDArray[np.intp],
    feature_A: NDArray[np.uintp],
    counts_WC: NDArray[np.int64],
) -> None:
    """Add each row to its cell of every tree; trees are complete, as of `TreeBins.heap`.

    Tree by tree, since one tree and two columns of a window fit the fastest cache. Descent has no branch to mispredict;
    indices are unsigned, which spares the test for negative ones.
    """
    one = np.uintp(1)
    gap_F = np.zeros(values_FN.shape[0], dtype=np.bool_)
    for f in range(values_FN.shape[0]):
        gap_F[f] = np.isnan(values_FN[f].sum())  # of finite values at most infinite
    for window in range(counts_WC.shape[0]):
        rows_FN = values_FN[:, window * window_rows : (window + 1) * window_rows]
        split = leaf = axis = cell = 0
        for tree in range(depth_R.size):
            depth, axes, size = depth_R[tree], axes_R[tree], size_R[tree]
            splits = (1 << depth) - 1
            features, cuts = feature_T[split : split + splits], cut_T[split : split + splits]
            cells = cell_L[leaf : leaf + splits + 1]
            counts_C = counts_WC[window, cell : cell + size]
            gaps = False
            for k in range(axes):
                gaps |= gap_F[feature_A[axis + k]]
            for row in range(window_rows):
                node = one
                for _ in range(depth):
                    above = rows_FN[features[node - one], np.uintp(row)] >= cuts[node - one]
                    node = (node << one) | np.uintp(above)
                place = cells[node - np.uintp(splits + 1)]
                if gaps:
                    for k in range(axes - 1, -1, -1):
                        if np.isnan(rows_FN[feature_A[axis + k], row]):
                            place = size - axes + k
                counts_C[place] += 1
            split += splits
            leaf += splits + 1
            axis += axes
            cell += size
