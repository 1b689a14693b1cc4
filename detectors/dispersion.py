"""Dispersion: how much more counts vary from window to window than those of independent rows.

Shapes: N rows in stream order, B contiguous blocks, K bins. Autocorrelated rows repeat themselves, so the counts of a window scatter
around the reference's shares with covariance V instead of the multinomial one. A divergence is then not chi-square but a sum of
chi-squares weighted by the design effects, the eigenvalues of V in multinomial units. Rao and Scott (1984) need their mean and their
spread.

The mean is built up by doubling, like Allan's variance: a block of 2b rows is two of b, so its design effect is theirs times
1 + r(b), r being the correlation of the deviations of neighbouring blocks. It is one for single rows, and each doubling multiplies it,
until neighbours no longer show a correlation. Independent rows thus stay exactly independent, and short memories are
measured on many short blocks instead of few long ones.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIGNIFICANT = (
    3.0  # standard errors at which a correlation is believed if the doubling before hints at it, too
)
HINT = 2.0  # standard errors of a hint
CERTAIN = 4.5  # standard errors at which a correlation is believed whatever the doubling before
LEAST_BLOCKS = 8  # at which a correlation of neighbours is looked for
SOUND_BLOCKS = 32  # blocks as long as the memory that a trustworthy estimate takes
MOMENT_ROWS = (
    32  # rows per block, at least, from which the spread is taken: counts of shorter ones are too discrete
)

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Dispersion:
    """First two moments of a feature's design effects, and what they were estimated from."""

    mean: float = 1.0  # 1: independent rows
    unevenness: float = 1.0  # 1 + squared coefficient of variation, between 1 and K - 1
    memory: int = 1  # rows of a block whose deviations no longer show in the next one; 1: independent rows
    rows: int = 0  # of the reference that it was estimated from

    @property
    def blocks(self) -> int:
        """Number of memory-long blocks behind the estimate."""
        return self.rows // self.memory

    @property
    def rows_needed(self) -> int:
        """Reference rows that a trustworthy estimate of this memory takes; 0 if rows are independent."""
        return SOUND_BLOCKS * self.memory if self.memory > 1 else 0

    def merge(self, other: "Dispersion") -> "Dispersion":
        """Combine the estimates of two references of one stream."""
        rows = self.rows + other.rows
        weight = self.rows / rows if rows else 0.5
        return Dispersion(
            weight * self.mean + (1 - weight) * other.mean,
            weight * self.unevenness + (1 - weight) * other.unevenness,
            max(self.memory, other.memory),
            rows,
        )


def dispersion_of(
    bin_N: NDArray[np.intp],
    size: int,
    season_N: NDArray[np.intp] | None = None,
) -> Dispersion:
    """Estimate design effects from the bins of rows in stream order.

    Parameters
    ----------
    bin_N : int array, shape (N,)
        Bin of each row; rows with a bin of `size` or above hold nothing and are passed over.
    size
        Number of bins.
    season_N : int array, shape (N,), optional
        Season of each row: deviations are then from the shares of the row's own season.
    """
    rows, held_N = bin_N.size, bin_N < size
    counts_K = np.bincount(bin_N[held_N], minlength=size)
    occupied_K = counts_K > 0
    degrees = int(occupied_K.sum()) - 1
    if degrees < 1 or rows < 2 * LEAST_BLOCKS:
        return Dispersion(rows=rows)
    one_hot_NK = np.zeros((rows, size), dtype=np.float32)  # exact enough for one row, and half the time
    one_hot_NK[held_N, bin_N[held_N]] = 1
    one_hot_NK = one_hot_NK[:, occupied_K]
    residual_BK = one_hot_NK - held_N[:, None] * _expected(one_hot_NK, season_N)
    residual_BK /= np.sqrt(counts_K[occupied_K] / rows).astype(np.float32)
    return effects_of(residual_BK, degrees)


def effects_of(residual_BK: Floats, degrees: int) -> Dispersion:
    """Estimate design effects from the deviations of single rows in stream order.

    Parameters
    ----------
    residual_BK : float array, shape (N, K)
        Each row's deviation from what is expected of it, in multinomial units; any orthonormal coordinates will do.
    degrees
        Number of design effects: dimensions that the deviations span.
    """
    rows = len(residual_BK)
    mean, memory, block, doubled = 1.0, 1, 1, 1.0
    uneven, spread, hint = 1.0, 1.0, math.inf
    while len(residual_BK) >= 2 * LEAST_BLOCKS:
        blocks = len(residual_BK)
        squares = _dot(residual_BK, residual_BK)
        if squares <= 0:
            break
        products = _dot(residual_BK[1:], residual_BK[:-1])
        carry = products / squares + 1 / blocks  # deviations from their own mean correlate by -1/B
        if block >= MOMENT_ROWS:
            spread = _unevenness(residual_BK, degrees)
        errors = carry / math.sqrt(spread / (blocks * degrees))
        if errors > (SIGNIFICANT if hint > HINT else CERTAIN):
            # What is left beyond this doubling, too, if the memory fades exponentially.
            mean, memory = doubled * (1 + 2 * carry), 2 * block
        doubled *= 1 + carry
        hint = errors
        if block >= MOMENT_ROWS and block <= max(memory, MOMENT_ROWS):
            uneven = spread
        even = blocks // 2 * 2
        residual_BK = np.add(residual_BK[:even:2], residual_BK[1:even:2], dtype=np.float64)
        block *= 2
    if memory == 1:
        return Dispersion(rows=rows)
    return Dispersion(max(mean, 1.0), uneven, memory, rows)


def _dot(left_BK: Floats, right_BK: Floats) -> float:
    return float(np.einsum("bk,bk->b", left_BK, right_BK).sum(dtype=np.float64))


def _expected(one_hot_NK: Floats, season_N: NDArray[np.intp] | None) -> Floats:
    """Share of each bin among rows that hold something, in all or of each row's season: shape (1 or N, K)."""
    if season_N is None:
        counts_K = one_hot_NK.sum(axis=0, keepdims=True)
        shares_K: Floats = counts_K / counts_K.sum()
        return shares_K
    counts_SK = np.zeros((int(season_N.max()) + 1, one_hot_NK.shape[1]))
    np.add.at(counts_SK, season_N, one_hot_NK)
    shares_SK: Floats = counts_SK / np.maximum(counts_SK.sum(axis=1, keepdims=True), 1.0)
    return shares_SK[season_N]


def _unevenness(residual_BK: Floats, degrees: int) -> float:
    """Spread of the design effects from the covariance of block deviations: K tr(V^2) / tr(V)^2."""
    free = len(residual_BK) - 1
    square = residual_BK @ residual_BK.T if free < degrees else residual_BK.T @ residual_BK
    trace = _dot(residual_BK, residual_BK) / free
    trace_of_square = float((square**2).sum()) / free**2
    # The plug-in trace of a squared covariance is biased upwards by tr^2 / free (Srivastava 2005).
    squares = free**2 / ((free + 2) * (free - 1)) * (trace_of_square - trace**2 / free)
    return min(max(degrees * squares / trace**2, 1.0), float(degrees))
