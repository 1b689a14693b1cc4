"""Null distribution: how large a divergence gets when nothing has moved.

Shapes: S simulated windows, F features, K bins, n window rows, m reference rows. Both samples are finite, so both are uncertain:
each simulated window draws the true masses from their posterior given the reference's counts (Dirichlet), then its
own rows from those masses (multinomial), and is measured by the very statistic that is used. The alarm rate is then
right on average over references; for quantile bins, whose masses are Dirichlet by construction, whatever the
feature's distribution. Given one small reference it may be off by a factor, as for any method.

The tail beyond the simulated windows is a gamma with their first three moments (Pearson III). The large-sample limit,
chi-square over 2nm/(n+m), is one of these.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from detectors.dispersion import SOUND_BLOCKS, Dispersion
from detectors.kl import kl

DRAWS = 8192  # simulated windows: 26 ms for 17 bins; a tail probability of 1/1000 is then right to 20%
FINE_DRAWS = 65536  # where a decision hangs on it: right to 6%
MINIMUM_SKEWNESS = 0.1  # a gamma of 400 shape units, normal for all purposes
UPPER = 1.28  # standard errors: in nine of ten references the design effect is not larger
GRID = 16  # window sizes per octave that are simulated; those between borrow the nearest

Floats = float | NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Null:
    """Distribution of divergences when nothing has moved: of one feature, or of F features by arrays of shape (F,)."""

    mean: Floats  # nats
    deviation: Floats  # nats, standard deviation
    skewness: Floats  # of the gamma, above zero
    doubt: Floats = math.inf  # degrees of freedom behind the scale; infinite when it was not estimated

    @classmethod
    def stack(cls, nulls: Sequence["Null"]) -> "Null":
        """Join the nulls of single features."""
        return cls(
            np.array([null.mean for null in nulls], dtype=np.float64),
            np.array([null.deviation for null in nulls], dtype=np.float64),
            np.array([null.skewness for null in nulls], dtype=np.float64),
            np.array([null.doubt for null in nulls], dtype=np.float64),
        )

    def p_value(self, nats: Floats) -> NDArray[np.float64]:
        """Probability of a divergence at least this large; broadcasts over leading axes."""
        shape = 4 / np.square(self.skewness)
        spread = 2 * np.divide(self.deviation, self.skewness)  # mean of the gamma before it is shifted
        excess = np.maximum(np.subtract(nats, self.mean) + spread, 0.0) / spread
        known = np.isinf(self.doubt)
        gamma = special.gammaincc(shape, shape * excess)
        if np.all(known):
            return np.asarray(gamma, dtype=np.float64)
        # A gamma over an estimated scale is F, as Student's t is to the normal (Thomas and Rao 1987).
        p_value: NDArray[np.float64] = np.where(
            known, gamma, special.fdtrc(2 * shape, np.where(known, 1.0, self.doubt), excess)
        )
        return p_value

    def critical(self, level: Floats) -> NDArray[np.float64]:
        """Nats whose p-value is `level`."""
        shape = 4 / np.square(self.skewness)
        spread = 2 * np.divide(self.deviation, self.skewness)
        known = np.isinf(self.doubt)
        excess = np.where(
            known,
            special.gammainccinv(shape, level) / shape,
            special.fdtri(2 * shape, np.where(known, 1.0, self.doubt), 1 - level),
        )
        return np.asarray(excess * spread - spread + self.mean, dtype=np.float64)

    def dispersed(self, effects: Dispersion, degrees: int) -> "Null":
        """Distribution for dependent rows (Rao and Scott's second-order correction, and a third moment).

        Parameters
        ----------
        effects
            Moments of the design effects, of whose mean the upper confidence limit is taken: too small a one costs more false alarms
            than too large a one saves. Where the reference is too short for them, they widen in proportion to what is missing.
        degrees
            Number of design effects: occupied bins less one.
        """
        if effects.memory == 1:
            return self
        variation = effects.unevenness - 1
        # The skewest spectrum with these two moments has one large effect and the others equal. Autocorrelation comes
        # close to it: a slow drift of the level outweighs all changes of shape.
        cube = 1 + 3 * variation
        if degrees > 1:
            cube += variation**1.5 * (degrees - 2) / math.sqrt(degrees - 1)
        scatter = math.sqrt(effects.unevenness)
        mean = effects.mean * (1 + UPPER * effects.error)
        scale = 1 + (mean - 1) * max(1.0, SOUND_BLOCKS / max(effects.blocks, 1))
        return Null(
            scale * self.mean,
            scale * scatter * self.deviation,
            cube / scatter**3 * self.skewness,
            2 / effects.error**2 if effects.error else math.inf,
        )

    def tolerant(self, tolerance: float, scale: Floats) -> "Null":
        """Distribution when the feature has truly moved by `tolerance` nats: whatever moved less alarms less.

        The noncentral chi-square with noncentrality 2 N t adds 4 times that to the variance and 24 times that to the third moment of
        2 N KL (Wilks; Johnson, Kotz and Balakrishnan 1995, chapter 29).

        Parameters
        ----------
        tolerance
            Nats, at least 0.
        scale
            1 / N, that is 1/n + 1/m, times the design effect.
        """
        if not tolerance:
            return self
        variance = np.square(self.deviation) + 2 * tolerance * scale
        third = np.asarray(self.skewness) * np.power(self.deviation, 3) + 3 * tolerance * np.square(scale)
        deviation = np.sqrt(variance)
        return Null(
            self.mean + tolerance, deviation, np.maximum(third / deviation**3, MINIMUM_SKEWNESS), self.doubt
        )


@dataclass(frozen=True)
class Evidence:
    """What a reference says about the true masses of one feature's bins, in no particular order of bins.

    The divergence does not know the order either, so that one simulation serves all features with equal counts, such
    as all numeric ones without ties.
    """

    counts: tuple[float, ...]  # reference rows per bin
    prior: tuple[float, ...]  # pseudo-counts per bin

    @classmethod
    def of(cls, counts_K: NDArray[np.int64], prior_K: NDArray[np.float64]) -> "Evidence":
        """Sort counts and what is expected besides, both of shape (K,)."""
        order = np.lexsort((prior_K, counts_K))
        return cls(tuple(counts_K[order].tolist()), tuple(prior_K[order].tolist()))

    @property
    def rows(self) -> float:
        """Rows that were counted."""
        return sum(self.counts)

    @property
    def degrees(self) -> int:
        """Occupied bins less one, at least one."""
        return max(sum(count > 0 for count in self.counts) - 1, 1)

    def thinned(self, factor: float) -> "Evidence":
        """Return the same shares from fewer rows; `factor` is at most 1."""
        if factor >= 1:
            return self
        return Evidence(tuple(round(count * factor, 6) for count in self.counts), self.prior)


def null_of(evidence: Evidence, rows: int, *, draws: int = DRAWS) -> Null:
    """Null of one set of bins for windows of independent rows.

    Parameters
    ----------
    evidence
        Of the reference, at least one row.
    rows
        Size of the window, at least 1.
    draws
        Simulated windows.
    """
    simulated = _on_grid(rows)
    null = _simulate(evidence, simulated, draws)
    # Divergences scale with 1/n + 1/m, exactly so in the limit; the grid is finer than the remainder.
    scale = (1 / rows + 1 / evidence.rows) / (1 / simulated + 1 / evidence.rows)
    return Null(null.mean * scale, null.deviation * scale, null.skewness)


def _on_grid(rows: int) -> int:
    step: int = 1 << max(rows.bit_length() - GRID.bit_length(), 0)
    return (rows + step // 2) // step * step


@lru_cache(maxsize=4096)
def _simulate(evidence: Evidence, rows: int, draws: int) -> Null:
    reference_K = np.array(evidence.counts)
    rng = np.random.default_rng(0)  # the same counts get the same verdict, today and after a restart
    parts = []
    for start in range(0, draws, DRAWS):
        size = (min(DRAWS, draws - start), reference_K.size)
        masses_SK = rng.standard_gamma(reference_K + np.array(evidence.prior), size=size)
        masses_SK /= masses_SK.sum(axis=1, keepdims=True)
        parts.append(kl(rng.multinomial(rows, masses_SK), reference_K))
    nats_S = np.concatenate(parts)
    mean, deviation = float(nats_S.mean()), float(nats_S.std())
    if deviation <= 1e-9 * mean:  # windows that cannot differ: any other is beyond the null
        return Null(mean, max(1e-9 * mean, 1e-12), MINIMUM_SKEWNESS)
    skewness = float(((nats_S - mean) ** 3).mean()) / deviation**3
    return Null(mean, deviation, max(skewness, MINIMUM_SKEWNESS))
