"""Dispersion: how much more counts vary from window to window than those of independent rows.

Shapes: B contiguous blocks of the reference, K bins. Autocorrelated rows repeat themselves, so the counts of a block
scatter around the reference's shares with covariance V instead of the multinomial one. A divergence is then not
chi-square but a sum of chi-squares weighted by the design effects, the eigenvalues of V in multinomial units. Rao and
Scott (1984) need their mean and their spread; both are estimated here from the blocks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MINIMUM_BLOCKS = 3  # the spread cannot be estimated from fewer


@dataclass(frozen=True)
class Dispersion:
    """First two moments of a feature's design effects."""

    mean: float = 1.0  # at least 1: independent rows
    unevenness: float = 1.0  # 1 + squared coefficient of variation, between 1 and K - 1

    def average(self, other: "Dispersion", weight: float) -> "Dispersion":
        """Combine two estimates; `weight` is this one's, between 0 and 1."""
        return Dispersion(
            weight * self.mean + (1 - weight) * other.mean,
            weight * self.unevenness + (1 - weight) * other.unevenness,
        )


def dispersion_of(counts_BK: NDArray[np.int64]) -> Dispersion:
    """Estimate design effects from the counts of equal blocks.

    Parameters
    ----------
    counts_BK : int array, shape (B, K)
        Counts of contiguous blocks, all of the same number of rows, at least `MINIMUM_BLOCKS`.

    Returns
    -------
    Dispersion
        Its mean is Pearson's X2 of the blocks over its exact expectation if the rows were exchangeable,
        never below one.
    """
    counts_BK = counts_BK[:, counts_BK.any(axis=0)]
    blocks, bins = counts_BK.shape
    if bins < 2:
        return Dispersion()
    rows = int(counts_BK.sum())
    expected_K = counts_BK.mean(axis=0)
    residual_BK = (counts_BK - expected_K) / np.sqrt(expected_K)
    gram_BB = residual_BK @ residual_BK.T  # same traces as the (K, K) covariance, whichever is larger
    free = blocks - 1
    trace = float(np.trace(gram_BB)) / free
    trace_of_square = float((gram_BB**2).sum()) / free**2
    # The plug-in trace of a squared covariance is biased upwards by tr^2 / free (Srivastava 2005).
    squares = free**2 / ((free + 2) * (free - 1)) * (trace_of_square - trace**2 / free)
    unevenness = (bins - 1) * squares / trace**2 if trace > 0 else 1.0
    return Dispersion(
        max(trace / (bins - 1) * (rows - 1) / rows, 1.0),
        min(max(unevenness, 1.0), float(bins - 1)),
    )
