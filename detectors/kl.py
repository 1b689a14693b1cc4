"""Kullback-Leibler divergence between two histograms on the same bins.

Shapes: K bins. Counts are smoothed by Jeffreys' half a count per bin on both sides, so that the divergence is
finite for every input, zero for equal shares, and additive over bins.

    q_k = (c_k + 1/2) / (n + K/2)      current, n rows
    p_k = (r_k + 1/2) / (m + K/2)      reference, m rows
    KL(q || p) = sum_k [ q_k ln(q_k / p_k) - q_k + p_k ]

The two added terms cancel in the sum and make every bin's part non-negative (the generalised, Bregman form), so
that "which bin moved" has an answer: a bin that lost mass counts as much as the one that gained it.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

SMOOTHING = 0.5  # counts added to each bin (Jeffreys)


def shares(counts_K: ArrayLike) -> NDArray[np.float64]:
    """Smoothed shares along the last axis; each row sums to one."""
    smoothed = np.asarray(counts_K, dtype=np.float64) + SMOOTHING
    normalised: NDArray[np.float64] = smoothed / smoothed.sum(axis=-1, keepdims=True)
    return normalised


def kl_by_bin(current_K: ArrayLike, reference_K: ArrayLike) -> NDArray[np.float64]:
    """Part of each bin in KL(current || reference), in nats, each at least zero.

    Parameters
    ----------
    current_K, reference_K : array_like of counts, shape (..., K)
        Histograms on the same bins; they broadcast.
    """
    parts: NDArray[np.float64] = special.kl_div(shares(current_K), shares(reference_K))
    return np.maximum(parts, 0.0)  # rounding can leave -1e-17


def kl(current_K: ArrayLike, reference_K: ArrayLike) -> NDArray[np.float64]:
    """KL(current || reference) in nats over the last axis; always finite, never negative."""
    total: NDArray[np.float64] = kl_by_bin(current_K, reference_K).sum(axis=-1)
    return total


def bias(bins: int, rows: float, reference_rows: float) -> float:
    """Mean of the divergence when nothing has moved, to first order: (K-1)/2 (1/n + 1/m) nats."""
    return (bins - 1) / 2 * (1 / rows + 1 / reference_rows)
