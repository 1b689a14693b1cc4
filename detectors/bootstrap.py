"""Circular block bootstrap of a mean over time (Politis and Romano 1992).

Blocks keep the autocorrelation of neighbouring rows. With few blocks a percentile interval is too short twice
over: the variance of B blocks is low by (B-1)/B, and a normal quantile stands where Student's belongs. Hesterberg
(2015, "What teachers should know about the bootstrap") expands it for both; B is rows / block here.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special


def block_bootstrap_mean(
    differences: ArrayLike, *, block: int, alpha: float, draws: int = 1000, seed: int
) -> tuple[float, float, float]:
    """Interval for the mean of a stationary series.

    Parameters
    ----------
    differences : array_like of float, shape (N,)
        In order of time.
    block
        Rows per block: longer than the series remembers, cut to N.
    alpha
        Two-sided error, in (0, 1).
    draws
        Resamples.
    seed
        Same seed, same interval.

    Returns
    -------
    tuple of float
        Lower end, mean, upper end. The ends are infinite when there are fewer than two blocks.

    Raises
    ------
    ValueError
        If the series is empty or holds a non-finite value, or block or alpha make no sense.
    """
    series = np.asarray(differences, dtype=np.float64).ravel()
    if not series.size or not np.isfinite(series).all():
        raise ValueError("the series must be finite and not empty")
    if block < 1 or not 0 < alpha < 1:
        raise ValueError(f"block must be positive and alpha in (0, 1), not {block} and {alpha}")
    rows, mean = series.size, float(series.mean())
    if rows < 2 * block:
        return -math.inf, mean, math.inf

    cumulative = np.concatenate(([0.0], np.cumsum(np.tile(series - mean, 2))))
    whole, rest = divmod(rows, block)
    starts = np.random.default_rng(seed).integers(rows, size=(draws, whole + 1))
    lengths = np.array([block] * whole + [rest])  # the last block is cut, so that every resample has N rows
    means = (cumulative[starts + lengths] - cumulative[starts]).sum(axis=1) / rows

    blocks = rows / block
    student = float(special.stdtrit(blocks - 1, alpha / 2))
    tail = float(special.ndtr(math.sqrt(blocks / (blocks - 1)) * student))
    low, high = np.quantile(means, (tail, 1 - tail))
    return mean + float(low), mean, mean + float(high)
