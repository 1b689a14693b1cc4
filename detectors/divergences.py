"""Divergences between two histograms on the same bins, each split into the parts that its bins have in it.

Shapes: K bins; any leading axes broadcast. q are the current shares and p the reference's, both smoothed as in
`detectors.kl`: every divergence is a function of the same two distributions, so that the inequalities between them hold
exactly, and is finite for every input, an empty window included. The parts of a divergence are non-negative and add up
to its value.

    kl              sum q ln(q / p), nats                             see detectors.kl
    reverse_kl      sum p ln(p / q), nats
    jeffreys        sum (q - p) ln(q / p) = kl + reverse_kl, nats
    psi             the same sum under its name in credit scoring, where .1 and .25 are customary limits
    jensen_shannon  (KL(q || m) + KL(p || m)) / 2, m = (q + p) / 2    nats, at most ln 2
    hellinger       sqrt(sum (sqrt q - sqrt p)^2 / 2)                 from 0 to 1; a bin's part is its share of the sum
    total_variation sum |q - p| / 2                                   from 0 to 1
    chi_square      sum (q - p)^2 / p                                 Pearson's; times n his statistic for n rows
    wasserstein     sum over inner edges |Q - P|                      ordered bins; unit: one bin
    ks              max over inner edges |Q - P|                      ordered bins; its part lies in the bin below the edge

**Ordered bins** are intervals, then missing. The ground distance of `wasserstein` is the number of bins between two
intervals: as bins are quantiles of the reference, a distance in ranks, which no unit and no outlier of the feature can
stretch. Each edge's term goes half to the bin on either side. Missing has no place in that order and is a component of its
own: Q and P are cumulative shares *among the rows that are not missing*, weighted by the share of rows that are present on
both sides, and |q - p| of missing is added (`wasserstein`: such a row has moved by one bin) or competes for the maximum
(`ks`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from detectors.bins import NumericBins
from detectors.kl import kl_by_bin, shares
from detectors.profile import Profile

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Divergence:
    """A divergence by the parts of its bins."""

    by_bin: Callable[
        [ArrayLike, ArrayLike], Array
    ]  # counts (..., K) of current and reference -> parts (..., K)
    unit: str
    ordered: bool = False  # means something only where bins are intervals, then missing

    def __call__(self, current_K: ArrayLike, reference_K: ArrayLike) -> Array:
        """Return the value over the last axis; finite, never negative, zero for equal counts."""
        total: Array = self.by_bin(current_K, reference_K).sum(axis=-1)
        return total


def _reverse_kl(current_K: ArrayLike, reference_K: ArrayLike) -> Array:
    return kl_by_bin(reference_K, current_K)


def _jeffreys(current_K: ArrayLike, reference_K: ArrayLike) -> Array:
    q_K, p_K = shares(current_K), shares(reference_K)
    parts_K: Array = (q_K - p_K) * np.log(q_K / p_K)
    return parts_K


def _jensen_shannon(current_K: ArrayLike, reference_K: ArrayLike) -> Array:
    q_K, p_K = shares(current_K), shares(reference_K)
    m_K = (q_K + p_K) / 2
    parts_K: Array = (special.kl_div(q_K, m_K) + special.kl_div(p_K, m_K)) / 2
    return np.maximum(parts_K, 0.0)  # rounding


def _hellinger(current_K: ArrayLike, reference_K: ArrayLike) -> Array:
    squares_K = (np.sqrt(shares(current_K)) - np.sqrt(shares(reference_K))) ** 2 / 2
    distance = np.sqrt(squares_K.sum(axis=-1, keepdims=True))
    parts_K: Array = squares_K / np.where(distance > 0, distance, 1.0)
    return parts_K


def _total_variation(current_K: ArrayLike, reference_K: ArrayLike) -> Array:
    parts_K: Array = np.abs(shares(current_K) - shares(reference_K)) / 2
    return parts_K


def _chi_square(current_K: ArrayLike, reference_K: ArrayLike) -> Array:
    p_K = shares(reference_K)
    parts_K: Array = (shares(current_K) - p_K) ** 2 / p_K
    return parts_K


def _gaps(current_K: ArrayLike, reference_K: ArrayLike) -> tuple[Array, Array]:
    """Return |Q - P| at the inner edges, shape (..., K - 2), weighted by presence; and |q - p| of missing, (..., 1)."""
    q_K, p_K = np.broadcast_arrays(shares(current_K), shares(reference_K))
    q_present, p_present = q_K[..., :-1].sum(-1, keepdims=True), p_K[..., :-1].sum(-1, keepdims=True)
    cumulative = np.cumsum(q_K[..., :-1] / q_present - p_K[..., :-1] / p_present, axis=-1)[..., :-1]
    gap_E: Array = np.minimum(q_present, p_present) * np.abs(cumulative)
    return gap_E, np.abs(q_K[..., -1:] - p_K[..., -1:])


def _wasserstein(current_K: ArrayLike, reference_K: ArrayLike) -> Array:
    gap_E, missing = _gaps(current_K, reference_K)
    none = np.zeros_like(missing)
    below, above = np.concatenate((gap_E, none), axis=-1), np.concatenate((none, gap_E), axis=-1)
    return np.concatenate(((below + above) / 2, missing), axis=-1)


def _kolmogorov_smirnov(current_K: ArrayLike, reference_K: ArrayLike) -> Array:
    gap_E, missing = _gaps(current_K, reference_K)
    gap_K = np.concatenate((gap_E, np.zeros_like(missing), missing), axis=-1)
    largest = gap_K.argmax(axis=-1, keepdims=True)
    return np.where(np.arange(gap_K.shape[-1]) == largest, gap_K, 0.0)


DIVERGENCES = MappingProxyType(
    {
        "kl": Divergence(kl_by_bin, "nats"),
        "reverse_kl": Divergence(_reverse_kl, "nats"),
        "jeffreys": Divergence(_jeffreys, "nats"),
        "psi": Divergence(_jeffreys, "nats"),
        "jensen_shannon": Divergence(_jensen_shannon, "nats"),
        "hellinger": Divergence(_hellinger, ""),
        "total_variation": Divergence(_total_variation, ""),
        "chi_square": Divergence(_chi_square, ""),
        "wasserstein": Divergence(_wasserstein, "bins", ordered=True),
        "ks": Divergence(_kolmogorov_smirnov, "", ordered=True),
    }
)
"""All of them by name, in the order in which they are shown."""


@dataclass(frozen=True, eq=False)
class FeatureDivergences:
    """What the divergences say about one feature."""

    name: str
    labels: tuple[str, ...]  # of its bins
    reference: Array  # smoothed shares, shape (K,)
    current: Array
    parts: dict[str, Array | None]  # by divergence, shape (K,); None where it is not defined: unordered bins

    def value(self, divergence: str) -> float | None:
        """Return the value of a divergence, None where it is not defined."""
        parts_K = self.parts[divergence]
        return None if parts_K is None else float(parts_K.sum())

    def top_bins(self, divergence: str, number: int) -> list[tuple[str, float, float, float]]:
        """Return (label, reference share, current share, part) of the bins with the largest parts, none of them 0."""
        parts_K = self.parts[divergence]
        if parts_K is None:
            return []
        largest = np.argsort(-parts_K, kind="stable")[:number]
        return [
            (self.labels[k], float(self.reference[k]), float(self.current[k]), float(parts_K[k]))
            for k in largest
            if parts_K[k] > 0
        ]

    def to_json(self) -> dict[str, Any]:
        """Write plain JSON types; what is not defined is null."""
        return {
            "name": self.name,
            "values": {name: self.value(name) for name in self.parts},
            "bins": [
                {"label": label, "reference_share": float(p), "current_share": float(q)}
                | {"parts": {name: float(part[k]) for name, part in self.parts.items() if part is not None}}
                for k, (label, p, q) in enumerate(zip(self.labels, self.reference, self.current, strict=True))
            ],
        }


def divergences(
    profile: Profile, counts: NDArray[np.int64], names: Sequence[str] = tuple(DIVERGENCES)
) -> tuple[FeatureDivergences, ...]:
    """Measure how far each feature of a window lies from a reference.

    Distance is not decision: these are not calibrated. `detectors.detector` says what is more than chance.

    Parameters
    ----------
    profile
        The reference; with seasons, what it expects of a window that has this one's seasons.
    counts
        The window, counted by `profile.count`, or the counts of another profile in the same bins.
    names
        Which divergences.

    Returns
    -------
    One value per feature, in the profile's order.

    Raises
    ------
    KeyError
        If a divergence is unknown.
    ValueError
        If the counts do not fit the profile.
    """
    chosen = {name: DIVERGENCES[name] for name in names}
    expected, _ = profile.expected(counts)
    found = []
    for bins, reference_K, current_K in zip(
        profile.features, profile.split(expected), profile.split(counts), strict=True
    ):
        ordered = isinstance(bins, NumericBins)
        parts = {
            name: divergence.by_bin(current_K, reference_K) if ordered or not divergence.ordered else None
            for name, divergence in chosen.items()
        }
        found.append(
            FeatureDivergences(bins.name, bins.labels(), shares(reference_K), shares(current_K), parts)
        )
    return tuple(found)
