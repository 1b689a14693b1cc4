"""Null distribution: how large a divergence gets when nothing has moved.

Shapes: S simulated windows, K bins, n window rows, m reference rows. Both samples are finite, so both are uncertain:
each simulated window draws the true masses from their posterior given the reference's counts (Dirichlet), then its
own rows from those masses (multinomial), and is measured by the very statistic that is used. The alarm rate is then
right on average over references; for quantile bins, whose masses are Dirichlet by construction, whatever the
feature's distribution. Given one small reference it may be off by a factor, as for any method.

The tail beyond the simulated windows is a gamma with their first three moments (Pearson III). The large-sample limit,
chi-square over 2nm/(n+m), is one of these.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from detectors.bins import Bins
from detectors.dispersion import Dispersion
from detectors.kl import kl

DRAWS = 8192  # simulated windows: 26 ms for 17 bins
MINIMUM_SKEWNESS = 0.1  # a gamma of 400 shape units, normal for all purposes
GRID = 16  # window sizes per octave that are simulated; those between borrow the nearest


@dataclass(frozen=True)
class Null:
    """Distribution of a feature's divergence when nothing has moved."""

    mean: float  # nats
    deviation: float  # nats, standard deviation
    skewness: float  # of the gamma, above zero
    doubt: float = math.inf  # degrees of freedom behind the scale; infinite when it was not estimated

    def p_value(self, nats: float) -> float:
        """Probability of a divergence at least this large."""
        shape = 4 / self.skewness**2
        spread = 2 * self.deviation / self.skewness  # mean of the gamma before it is shifted
        excess = max(nats - self.mean + spread, 0.0) / spread
        if math.isinf(self.doubt):
            return float(special.gammaincc(shape, shape * excess))
        # A gamma over an estimated scale is F, as Student's t is to the normal (Thomas and Rao 1987).
        return float(special.fdtrc(2 * shape, self.doubt, excess))

    def dispersed(self, effects: Dispersion, degrees: int, blocks: int) -> "Null":
        """Distribution for dependent rows (Rao and Scott's second-order correction, and a third moment).

        Parameters
        ----------
        effects
            Moments of the design effects.
        degrees
            Number of design effects: occupied bins less one.
        blocks
            Blocks that they were estimated from; 0 changes nothing.
        """
        if not blocks:
            return self
        variation = effects.unevenness - 1
        # The skewest spectrum with these two moments has one large effect and the others equal. Autocorrelation comes
        # close to it: a slow drift of the level outweighs all changes of shape.
        cube = 1 + 3 * variation
        if degrees > 1:
            cube += variation**1.5 * (degrees - 2) / math.sqrt(degrees - 1)
        scatter = math.sqrt(effects.unevenness)
        return Null(
            effects.mean * self.mean,
            effects.mean * scatter * self.deviation,
            cube / scatter**3 * self.skewness,
            2 * (self.mean / (scatter * self.deviation)) ** 2 * (blocks - 1),
        )


@dataclass(frozen=True)
class Evidence:
    """What a reference says about the true masses of one feature's bins, in no particular order of bins.

    The divergence does not know the order either, so that one simulation serves all features with equal counts, such
    as all numeric ones without ties.
    """

    counts: tuple[int, ...]  # reference rows per bin
    prior: tuple[float, ...]  # pseudo-counts per bin

    @classmethod
    def of(cls, feature: Bins, reference_K: NDArray[np.int64]) -> "Evidence":
        """Sort the counts of one feature, shape (K,), and what its bins expect besides."""
        prior_K = feature.prior(reference_K)
        order = np.lexsort((prior_K, reference_K))
        return cls(tuple(reference_K[order].tolist()), tuple(prior_K[order].tolist()))


def null_of(evidence: Evidence, reference_rows: int, rows: int) -> Null:
    """Null of one feature for windows of independent rows.

    Parameters
    ----------
    evidence
        Of the reference.
    reference_rows, rows
        Size of reference and window, at least 1.
    """
    simulated = _on_grid(rows)
    null = _simulate(evidence, simulated)
    # Divergences scale with 1/n + 1/m, exactly so in the limit; the grid is finer than the remainder.
    scale = (1 / rows + 1 / reference_rows) / (1 / simulated + 1 / reference_rows)
    return Null(null.mean * scale, null.deviation * scale, null.skewness)


def _on_grid(rows: int) -> int:
    step: int = 1 << max(rows.bit_length() - GRID.bit_length(), 0)
    return (rows + step // 2) // step * step


@lru_cache(maxsize=4096)
def _simulate(evidence: Evidence, rows: int) -> Null:
    reference_K = np.array(evidence.counts)
    rng = np.random.default_rng(0)  # the same counts get the same verdict, today and after a restart
    masses_SK = rng.standard_gamma(reference_K + np.array(evidence.prior), size=(DRAWS, reference_K.size))
    masses_SK /= masses_SK.sum(axis=1, keepdims=True)
    nats_S = kl(rng.multinomial(rows, masses_SK), reference_K)
    mean, deviation = float(nats_S.mean()), float(nats_S.std())
    if deviation <= 1e-9 * mean:  # windows that cannot differ: any other is beyond the null
        return Null(mean, 1e-9 * mean, MINIMUM_SKEWNESS)
    skewness = float(((nats_S - mean) ** 3).mean()) / deviation**3
    return Null(mean, deviation, max(skewness, MINIMUM_SKEWNESS))
