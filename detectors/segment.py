"""Segment: which rows of a window moved. A fault rarely begins where a window does.

Shapes: N rows, K bins, C cuts. If rows before the cut are the reference's and those after it are not, n KL(counts after || reference) is
the log-likelihood ratio of that story, largest at the true cut; the same holds for rows before one, when something ends.
"""

import numpy as np
from numpy.typing import NDArray

from detectors.kl import kl

CUTS = 64  # places that are looked at
LEAST_ROWS = 30
TOLD = 8.0  # nats of all rows by which a part of the window must beat the whole: chance of e^-8 a cut, one in fifty for all


def moved_rows(bin_N: NDArray[np.intp], reference_K: NDArray[np.int64]) -> slice:
    """Return the rows of one feature that moved: all, the last, or the first.

    Parameters
    ----------
    bin_N
        Bin of each row, in stream order.
    reference_K
        Counts of the reference.
    """
    rows, size = bin_N.size, reference_K.size
    if rows < 2 * LEAST_ROWS:
        return slice(0, rows)
    cuts_C = np.unique(np.linspace(LEAST_ROWS, rows - LEAST_ROWS, CUTS).astype(np.intp))
    part_N = np.searchsorted(cuts_C, np.arange(rows), side="right")
    cells = np.bincount(part_N * size + bin_N, minlength=(cuts_C.size + 1) * size)
    first_CK = np.cumsum(cells.reshape(-1, size), axis=0)
    last_CK = first_CK[-1] - first_CK
    whole = rows * float(kl(first_CK[-1], reference_K))
    first_C = cuts_C * kl(first_CK[:-1], reference_K)
    last_C = (rows - cuts_C) * kl(last_CK[:-1], reference_K)
    if max(first_C.max(), last_C.max()) < whole + TOLD:
        return slice(0, rows)
    if last_C.max() >= first_C.max():
        return slice(int(cuts_C[last_C.argmax()]), rows)
    return slice(0, int(cuts_C[first_C.argmax()]))
