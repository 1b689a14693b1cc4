"""What the tests for faults of the data share: the case of one feature, and what a profile says about raw values.

Shapes: N rows of the window that are looked at, K bins, E edges. No reference rows are kept, yet much is known of them.
Edges are order statistics: the share of the reference below edge e is known exactly. A bin's share is an upper bound for the
share of any single value in it. And the count below an edge falls short of the edge's rank only if the reference holds that value more
than once, so that the edges are a sample of how often its values repeat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special

from detectors.bins import Bins, NumericBins
from detectors.columns import Categorical, Column
from detectors.kl import bias, kl

SURE = 1e-4  # chance that a test calls a fault where there is none, at the bounds that it is given
CLEAR = 20.0  # nats of all rows from which a move has a shape that can be explained
ENOUGH = 10.0  # independent rows below which a window may well show one state of a column that changes slowly
CONSTANT = 0.9  # share of a bin in the reference from which a column was as good as constant
CREDIBLE = 0.999  # one-sided credibility of what is taken from the reference


@dataclass(frozen=True)
class Fault:
    """A fault of the data in one feature; with an empty name, of whole rows."""

    kind: str  # "missing", "stuck", "rescaled", ...
    feature: str
    share: float  # of the rows looked at
    sentence: str  # for people


@dataclass(frozen=True, eq=False)
class Case:
    """One feature of a window, with its reference."""

    bins: Bins
    reference: NDArray[np.int64]
    column: Column  # the rows looked at, in stream order
    effect: float = 1.0  # rows that are worth one independent row, at least 1
    missing_effect: float = 1.0  # the same of whether a value is there
    alarm: bool = True  # the window alarmed: that it moved by chance is within the budget
    sound: bool = True  # the reference has the rows that its dependence on itself calls for

    @property
    def name(self) -> str:
        """Name of the feature."""
        return self.bins.name

    @cached_property
    def independent(self) -> float:
        """Independent rows that the window is worth."""
        return len(self.column) / self.effect

    @property
    def enough(self) -> bool:
        """Whether the window is worth the rows from which it shows more than one state of the column."""
        return self.independent >= ENOUGH

    @cached_property
    def finite(self) -> NDArray[np.float64]:
        """Values of a numeric column that are there."""
        assert not isinstance(self.column, Categorical)
        return self.column[np.isfinite(self.column)]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Counts of the window."""
        return self.bins.count(self.column)

    @cached_property
    def missing(self) -> tuple[float, float]:
        """Share of missing rows in the reference and in the window."""
        return _share(self.reference, -1), _share(self.counts, -1)

    @cached_property
    def moved(self) -> float:
        """Nats, less their bias, by which the values that are there have moved."""
        return self.excess(self.counts)

    def excess(self, counts_K: NDArray[np.int64]) -> float:
        """Nats, less their bias, between some counts and the reference; missing rows are left out."""
        return excess(counts_K[:-1], self.reference[:-1])

    def explained(self, counts_K: NDArray[np.int64]) -> float:
        """Share of the move that is gone when the window had these counts instead; none of a move that may be chance."""
        return 1 - self.excess(counts_K) / self.moved if self.clear else 0.0

    @property
    def constant(self) -> bool:
        """Whether the reference was as good as constant itself, and so shows nothing of how the feature varies."""
        return bool(self.reference[:-1].max() > CONSTANT * self.reference[:-1].sum())

    @property
    def clear(self) -> bool:
        """Whether the feature moved so far that there is something to explain."""
        return self.moved * self.independent >= CLEAR

    def at_most(self, k: int) -> float:
        """Upper bound for the share of the reference's regime in one bin, and so of every value in it."""
        here, rows = int(self.reference[k]), int(self.reference.sum())
        return float(special.betaincinv(here + 1, rows - here + 1, CREDIBLE))

    def more_than(self, count: int, share: float) -> float:
        """Chance of at least so many rows where each has at most this probability."""
        scaled = count / self.effect
        if scaled <= 0 or share >= 1:
            return 1.0
        return float(special.betainc(scaled, max(self.independent - scaled, 0.0) + 1, share))

    def fewer_than(self, count: int, share: float) -> float:
        """Chance of at most so many rows where each has at least this probability."""
        scaled = count / self.effect
        return float(special.betaincc(scaled + 1, max(self.independent - scaled, 1e-9), share))


@dataclass(frozen=True, eq=False)
class Reference:
    """What a profile says about the values of a numeric feature."""

    edges: NDArray[np.float64]
    levels: NDArray[np.float64]  # share of the finite reference rows below each edge
    repeats: float  # upper bound for the share of rows that repeat the value of another
    step: float  # coarsest decimal step that all edges are multiples of, 0 if there is none

    @classmethod
    def of(cls, bins: NumericBins, reference_K: NDArray[np.int64]) -> Reference:
        """Read a profile."""
        edges_E = np.array(bins.edges)
        cumulated_E = np.cumsum(reference_K[:-1])[:-1]
        rows = int(reference_K[:-1].sum())
        ranks_E = np.arange(1, len(edges_E) + 1) * rows // (len(edges_E) + 1)
        tied = int(
            (cumulated_E != ranks_E).sum()
        )  # edges that fell together, or profiles that merged, count too
        untied = len(edges_E) - tied
        repeats = float(special.betaincinv(tied + 1, untied, CREDIBLE)) if untied else 1.0
        if len(edges_E) > 1 and edges_E[-1] == np.nextafter(
            edges_E[-2], np.inf
        ):  # closes the bin of the maximum
            return cls(edges_E, cumulated_E / rows, repeats, step_of(edges_E[:-1]))
        return cls(edges_E, cumulated_E / max(rows, 1), repeats, step_of(edges_E))

    def one_sign(self) -> int:
        """Sign that at least 95% of the values share, else 0."""
        below = self.below(0.0)
        return 1 if below <= 0.05 else -1 if below >= 0.95 else 0

    def below(self, value: float) -> float:
        """Share below a value, interpolated between edges."""
        if not len(self.edges):
            return 0.5
        return float(np.interp(value, self.edges, self.levels, left=0.0, right=1.0))

    def quantile(self, share: float) -> float:
        """Value below which a share lies, interpolated between edges."""
        return float(np.interp(share, self.levels, self.edges))

    def log_depth(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log of the share that lies at least as far out on the same side; exponential tails beyond the edges."""
        low, median, high = float(self.edges[0]), self.quantile(0.5), float(self.edges[-1])
        tails = max(float(self.levels[0]), 1e-3), max(1 - float(self.levels[-1]), 1e-3)
        levels = np.clip(np.interp(values, self.edges, self.levels), tails[0], 1 - tails[1])
        depth: NDArray[np.float64] = np.log(np.minimum(levels, 1 - levels))
        for out, tail, width in (
            (low - values, tails[0], median - low),
            (values - high, tails[1], high - median),
        ):
            rate = max(math.log(0.5 / tail), 0.1) / max(width, 1e-300)
            depth = np.where(out > 0, math.log(tail) - rate * out, depth)
        return depth

    def places(self, k: int) -> float:
        """Different values that bin k has room for; the outer two are taken to be as wide as their neighbours."""
        inner = min(max(k, 1), len(self.edges) - 1)
        width = float(self.edges[inner] - self.edges[inner - 1])
        return width / self.step if self.step else math.inf


def step_of(values: NDArray[np.float64], share: float = 1.0) -> float:
    """Coarsest step of 1, 2.5 or 5 times a power of ten that (this share of) the values are multiples of; 0 if there is none."""
    for power in range(6, -7, -1):
        for digit in (5.0, 2.5, 1.0):
            step = digit * 10.0**power
            if multiples(values, step).mean() >= share if values.size else False:
                return step
    return 0.0


def multiples(values: NDArray[np.float64], step: float) -> NDArray[np.bool_]:
    """Which values are multiples of a step, but for the rounding of single precision."""
    off = np.abs(values - np.round(values / step) * step)
    close: NDArray[np.bool_] = off <= np.minimum(np.abs(values) * 1e-7, step / 1000)
    return close


def excess(counts_K: NDArray[np.int64], reference_K: NDArray[np.int64]) -> float:
    """KL of counts from reference counts in nats, less its mean for independent rows; at least zero.

    Dependent rows stray farther by chance. That is not taken off here, since a fault is told by how well its story fits: what may be chance
    must not count as a fit.
    """
    rows, reference_rows = int(counts_K.sum()), int(reference_K.sum())
    if not rows or not reference_rows:
        return 0.0
    occupied = max(int(np.count_nonzero(reference_K)), 2)
    return max(float(kl(counts_K, reference_K)) - bias(occupied, rows, reference_rows), 0.0)


def number(value: float) -> str:
    """Return a number as people write it."""
    return f"{value:.4g}" if abs(value) < 1e4 or not float(value).is_integer() else f"{value:.0f}"


def percent(share: float) -> str:
    """Return a share as people write it."""
    if share >= 0.9995 or share == 0:
        return f"{share:.0%}"
    return f"{share:.1%}" if share < 0.095 else f"{share:.0%}"


def _share(counts_K: NDArray[np.int64], k: int) -> float:
    return float(counts_K[k] / max(counts_K.sum(), 1))
