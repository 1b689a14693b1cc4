"""Dependence: how much more a sum of neighbouring rows varies than that of rows that do not depend on each other.

The variance of a block of 2b rows is twice that of one of b, times 1 + r, r being the correlation of neighbouring blocks. So it is built up
from single rows by doubling (Flyvbjerg and Petersen, "Error estimates on averages of correlated data", J. Chem. Phys. 91, 1989), and the
largest of all doublings is taken: rows of sources that come in turn, and rows that alternate, depend on each other at a lag, and only longer
blocks correlate. Where the longest ones still do, the correlation is taken to halve with every further doubling, as that of blocks beyond the
memory does: (1 + r/2) (1 + r/4) ... < exp(r). A maximum of estimates is a little too large for rows that do not depend on each other: by 14%
(median) after 500 rows and by 5% after 3000, so that what is worse by 0.2 or 0.5 standard deviations is found in 19% or 13% more rows (mean)
than if dependence were ignored.

Deviations are from the mean of a segment of 256 rows. What lasts longer is no noise but how the two versions are by now: one that turns worse
is found about as soon as if there were no dependence, or one segment later. Memories of about ten rows are made up for, longer ones in part,
and none before rows have gone through it several times: in the first hundred rows turns of 25 rows still look like a difference that stays.
Versions that are equal, called worse within 3000 rows by `detectors.anytime.excess` at 1% that looks every 100 (2000 simulations each, so
give or take 0.2% to 1% of all):

    differences                                              dependence ignored   made up for
    independent                                                            0.4%          0.4%
    each follows the one before by 0.5                                    13.9%          0.9%
    ... by 0.8 (9 rows count as one)                                      45.8%          1.7%
    ... by 0.9 (19 rows count as one)                                     62.1%          3.6%
    each version better by 0.5, in turns of 10 rows                       11.6%          1.2%
    ... of 25 rows                                                        33.4%          6.2%
    ... of 50 rows                                                        50.2%         16.0%
    2, 4, 8 sources in turn, each followed by 0.5              13.4, 13.2, 13.4%   1.3, 1.5, 4.2%
    ... by 0.8                                                 44.4, 44.7, 41.2%  3.9, 7.8, 15.2%
    ... by 0.9                                                 60.5, 58.7, 54.5%  7.9, 17.8, 30.4%
    signs alternate around a mean that follows by 0.9                     34.8%          3.4%

So the level nearly holds for memories of about ten rows in all, and is exceeded the more the longer they are: sources in turn stretch theirs by
their number. At 0.25%, the level of a rollout's comparison by default, it is exceeded by a larger ratio: independent 0.1%, followers 0.3, 1.1
and 1.8%, turns 0.4, 4.2 and 11.9%, 2, 4, 8 sources by 0.8 2.2, 4.7 and 10.6%.
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
        variance, largest, correlation = 1.0, 1.0, 0.0
        sums = np.array([self.products, self.squares]) + _doubled(np.array(self.rows))
        for products, squares in sums.T.tolist():
            if squares <= 0:
                break
            correlation = products / squares
            variance *= max(1 + correlation, 0.0)
            largest = max(largest, variance)
        return max(largest, variance * math.exp(max(correlation, 0.0)))


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
