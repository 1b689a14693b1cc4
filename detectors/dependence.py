"""Dependence: how much more a sum of neighbouring rows varies than that of rows that do not depend on each other.

The variance of a block of 2b rows is twice that of one of b, times 1 + r, r being the correlation of neighbouring blocks. So it is built up
from single rows by doubling (Flyvbjerg and Petersen, "Error estimates on averages of correlated data", J. Chem. Phys. 91, 1989), as long as
neighbours correlate positively: the first correlation that is not above zero is noise, and so is all behind it (the initial positive
sequence of Geyer, "Practical Markov chain Monte Carlo", Statistical Science 7, 1992). Rows that do not depend on each other seldom get beyond the first few
doublings, whose errors are small. Where the longest blocks still correlate, the correlation is taken to halve with every further doubling,
as that of blocks beyond the memory does: (1 + r/2) (1 + r/4) ... < exp(r).

Deviations are from the mean of a segment of 256 rows. What lasts longer is no noise but how the two versions are by now: one that turns worse
is found about as soon as if there were no dependence, or one segment later. Memories up to a tenth of a segment are seen whole, longer ones in part, and none before
rows have gone through it several times: in the first hundred rows turns of 25 rows still look like a difference that stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SEGMENT_ROWS = 256
LEAST_BLOCKS = 16  # of which a correlation is estimated
DOUBLINGS = 5  # of a whole segment: from blocks of 1 row to those of 16


@dataclass(frozen=True)
class Dependence:
    """What is kept of paired differences in the order of time: sums over whole segments, and the rows behind the last one."""

    products: tuple[float, ...] = (0.0,) * DOUBLINGS  # of deviations of neighbouring blocks, by doubling
    squares: tuple[float, ...] = (0.0,) * DOUBLINGS
    rows: tuple[float, ...] = ()  # fewer than a segment

    def add(self, differences: ArrayLike) -> Dependence:
        """Return it with more differences; how they are cut into batches makes no difference."""
        rows = np.concatenate([self.rows, np.asarray(differences, dtype=np.float64).ravel()])
        whole = rows.size // SEGMENT_ROWS * SEGMENT_ROWS
        sums = np.array([self.products, self.squares])
        for segment in rows[:whole].reshape(-1, SEGMENT_ROWS):
            sums += _doubled(segment)
        products, squares = sums.tolist()
        return Dependence(tuple(products), tuple(squares), tuple(rows[whole:].tolist()))

    @property
    def factor(self) -> float:
        """Variance of a sum over that of as many rows that do not depend on each other; never below 1."""
        factor, correlation = 1.0, 0.0
        sums = np.array([self.products, self.squares]) + _doubled(np.array(self.rows))
        for products, squares in sums.T.tolist():
            if squares <= 0:
                break
            correlation = products / squares
            if correlation <= 0:
                return factor
            factor *= 1 + correlation
        return factor * math.exp(correlation)


def _doubled(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums of products of neighbours and of squares, shape (2, DOUBLINGS); zero where there are too few blocks."""
    sums = np.zeros((2, DOUBLINGS))
    blocks = rows - rows.mean() if rows.size else rows
    for level in range(DOUBLINGS):
        if blocks.size < LEAST_BLOCKS:
            break
        squares = float(blocks @ blocks)
        # Deviations from their own mean correlate by -1 / blocks.
        sums[:, level] = float(blocks[1:] @ blocks[:-1]) + squares / blocks.size, squares
        even = blocks.size // 2 * 2
        blocks = blocks[:even:2] + blocks[1:even:2]
    return sums
