"""Bins of one feature, frozen on the reference: what turns rows into a vector of counts.

Shapes: N rows, K bins (`size`). Bins partition everything a column can hold, so counts of any window sum to its
rows and counts of parts add up to the counts of the whole. *Missing* is always the last bin.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.columns import Categorical, Column, numbers_of

MISSING = "missing"
UNSEEN = "unseen"
OTHER = "other"

RARE = 5  # a category with fewer reference rows shares a bin: alone it would only add noise


@dataclass(frozen=True)
class NumericBins:
    """Half-open intervals between quantiles or values of the reference; the outer two are unbounded.

    Edges are order statistics, not interpolated quantiles: the true masses of the bins then follow a Dirichlet
    distribution whatever the feature's own distribution is, which is what calibration relies on. A value that
    holds several quantiles has its bin to itself: zeros do not hide how many values lie above them.

    A column of few values (a flag, a grade, a count) is cut at each of them, however rare. Its bins are categories that
    have an order: what is known of their masses is a multinomial count each, not a spacing.

    Beyond a smallest or largest value that is common there is a bin that the reference leaves empty, so that a constant column, or an
    integer one, has somewhere to move to on either side.
    """

    name: str
    edges: tuple[float, ...]  # inner edges, strictly increasing
    discrete: bool = False  # cut at each value of the reference, rather than at quantiles

    @classmethod
    def of(cls, name: str, column: NDArray[np.float64], bins: int) -> "NumericBins":
        """Cut at each value if there are at most `bins`, each `RARE` times on average; else at the quantiles."""
        values = column[np.isfinite(column)]
        if not values.size:
            return cls(name, ())
        value_V, rows_V = _values(values, bins)
        discrete = 0 < value_V.size * RARE <= values.size
        if discrete:
            edges = _cut_at_values(value_V, rows_V, values.size / bins)
        else:
            edges = _cut_at_quantiles(values, bins)
        return cls(name, tuple(float(edge) for edge in edges if math.isfinite(edge)), discrete)

    @property
    def size(self) -> int:
        """Number of bins: intervals, then missing."""
        return len(self.edges) + 2

    def assign(self, column: Column) -> NDArray[np.intp]:
        """Bin of each row, shape (N,)."""
        values = self.values(column)
        bin_N = np.searchsorted(self.edges_E, values, side="right")
        bin_N[~np.isfinite(values)] = self.size - 1
        return bin_N

    def values(self, column: Column) -> NDArray[np.float64]:
        """Return the column's numbers, contiguous.

        Raises
        ------
        TypeError
            If the column is categorical.
        """
        if isinstance(column, Categorical):
            raise TypeError(f"feature {self.name!r} is numeric in the reference, categorical here")
        return numbers_of(self.name, column)

    def count(self, column: Column) -> NDArray[np.int64]:
        """Rows per bin, shape (size,)."""
        return np.bincount(self.assign(column), minlength=self.size)

    def labels(self) -> tuple[str, ...]:
        """Name of each bin for people, with as few digits as keep the edges apart."""
        return self._labels

    def prior(self, counts_K: NDArray[np.int64]) -> NDArray[np.float64]:
        """Pseudo-counts for the true masses given reference counts, both of shape (size,).

        One count, spread evenly: the masses between order statistics of m rows are Dirichlet with m + 1 counts
        in all. Missing rows and single values are no order statistics; see `CategoricalBins.prior`.
        """
        prior_K = np.full(self.size, 1 / self.size)
        counted = slice(None) if self.discrete else slice(-1, None)
        prior_K[counted] = np.where(counts_K[counted] > 0, 1.0, prior_K[counted])
        return prior_K

    @cached_property
    def edges_E(self) -> NDArray[np.float64]:
        """The inner edges as an array."""
        return np.array(self.edges, dtype=np.float64)

    @cached_property
    def _labels(self) -> tuple[str, ...]:
        if not self.edges:
            return ("any", MISSING)
        text = [f"{edge:.4g}" for edge in self.edges]
        for digits in range(5, 18):
            if len(set(text)) == len(text):
                break
            text = [f"{edge:.{digits}g}" for edge in self.edges]
        inner = [
            f"[{low}, {high})" if math.nextafter(self.edges[i], math.inf) < self.edges[i + 1] else f"= {low}"
            for i, (low, high) in enumerate(pairwise(text))
        ]
        last = f"> {text[-2]}" if inner and inner[-1].startswith("=") else f">= {text[-1]}"
        return (f"< {text[0]}", *inner, last, MISSING)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; read back by `bins_from_json`."""
        return {
            "kind": "numeric",
            "name": self.name,
            "edges": list(self.edges),
            "discrete": self.discrete,
        }


def _values(values_M: NDArray[np.float64], most: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Distinct values and the rows of each; none if there are more than `most`."""
    none = np.zeros(0), np.zeros(0, dtype=np.intp)
    if np.unique(values_M[: 64 * most]).size > most:  # spares most columns the sorting
        return none
    value_V, rows_V = np.unique(values_M, return_counts=True)
    return (value_V, rows_V) if value_V.size <= most else none


def _cut_at_values(
    value_V: NDArray[np.float64], rows_V: NDArray[np.intp], common: float
) -> NDArray[np.float64]:
    """Begin a bin at each value; one with fewer than `RARE` rows shares that of a neighbour, but not of a common one.

    Beyond an outer value with fewer rows than `common` there may well be others that the reference lacks by chance: the two share a bin.
    """
    starts = [0]
    for v in range(1, value_V.size):
        below, above = rows_V[starts[-1] : v].sum(), rows_V[v:].sum()
        if (below >= RARE or rows_V[v] >= common) and (above >= RARE or rows_V[v - 1] >= common):
            starts.append(v)
    edges = value_V[starts if rows_V[0] >= common else starts[1:]]
    alone = starts[-1] == value_V.size - 1
    return np.append(edges, _above(value_V[-1])) if alone and rows_V[-1] >= common else edges


def _cut_at_quantiles(values_M: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Begin a bin at each quantile, and behind a value that holds several of them."""
    ranks = np.unique(np.arange(1, bins) * values_M.size // bins)
    edges, held = np.unique(np.partition(values_M, ranks)[ranks], return_counts=True)
    behind = []
    for low, high in zip(edges[held > 1], np.append(edges[1:], np.inf)[held > 1], strict=True):
        between = values_M[(values_M > low) & (values_M < high)]
        if between.size >= RARE:
            behind.append(between.min())
    if edges[-1] == values_M.max():
        behind.append(_above(edges[-1]))
    return np.sort(np.append(edges, behind))


def _above(value: float) -> float:
    with np.errstate(over="ignore"):  # beyond the largest float lies infinity, as good an edge as any
        return float(np.nextafter(value, np.inf))


@dataclass(frozen=True)
class CategoricalBins:
    """The reference's frequent categories, one bin for all others, and missing.

    The bin for all others is called "other" where the reference had any: its count tells how much to expect. Where
    each of the reference's categories has its own bin, whatever lands in that bin is *unseen*.
    """

    name: str
    categories: tuple[str, ...]  # most frequent first, ties by name
    other: bool  # the reference had further categories
    entry: int = RARE  # reference rows that a category needed for a bin of its own

    @classmethod
    def of(cls, name: str, column: Categorical, top: int) -> "CategoricalBins":
        """Keep the `top` most frequent categories, of those with at least `RARE` reference rows."""
        counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.vocabulary))
        seen = sorted((-int(counts[i]), column.vocabulary[i]) for i in np.flatnonzero(counts))
        kept = tuple(category for count, category in seen[:top] if -count >= RARE)
        runner_up = -seen[top][0] if len(seen) > top else 0
        return cls(name, kept, len(kept) < len(seen), max(runner_up, RARE))

    @property
    def size(self) -> int:
        """Number of bins: categories, other or unseen, then missing."""
        return len(self.categories) + 2

    def assign(self, column: Column) -> NDArray[np.intp]:
        """Bin of each row, shape (N,)."""
        codes_N, bin_of_code = self.codes(column)
        return bin_of_code[codes_N]

    def codes(self, column: Column) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
        """Return the column's codes and the bin of each code; the last entry is what code -1 (missing) reads.

        Raises
        ------
        TypeError
            If the column is numeric.
        """
        if not isinstance(column, Categorical):
            raise TypeError(f"feature {self.name!r} is categorical in the reference, numeric here")
        others = len(self.categories)
        lookup = [self._position.get(value, others) for value in column.vocabulary]
        return np.ascontiguousarray(column.codes), np.array([*lookup, self.size - 1], dtype=np.intp)

    def count(self, column: Column) -> NDArray[np.int64]:
        """Rows per bin, shape (size,)."""
        return np.bincount(self.assign(column), minlength=self.size)

    def labels(self) -> tuple[str, ...]:
        """Name of each bin for people."""
        return (*self.categories, OTHER if self.other else UNSEEN, MISSING)

    def prior(self, counts_K: NDArray[np.int64]) -> NDArray[np.float64]:
        """Pseudo-counts for the true masses given reference counts, both of shape (size,).

        A whole count where rows were seen: with flat prior masses the posterior scatters around the reference as
        references scatter around the truth. One count spread evenly over all bins otherwise. And categories that one
        row less would have sent to the others: their rows estimate what the reference kept out of there by chance
        (Good and Turing, who need one row for entry).
        """
        prior_K = np.where(counts_K > 0, 1.0, 1 / self.size)
        kept = counts_K[: len(self.categories)]
        prior_K[-2] += kept[kept == self.entry].sum()
        return prior_K

    @cached_property
    def _position(self) -> dict[str, int]:
        return {category: i for i, category in enumerate(self.categories)}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; read back by `bins_from_json`."""
        return {
            "kind": "categorical",
            "name": self.name,
            "categories": list(self.categories),
            "other": self.other,
            "entry": self.entry,
        }


Bins = NumericBins | CategoricalBins


def bins_of(name: str, column: Column, *, bins: int, top: int) -> Bins:
    """Freeze the bins of one reference column."""
    if isinstance(column, Categorical):
        return CategoricalBins.of(name, column, top)
    return NumericBins.of(name, numbers_of(name, column), bins)


def bins_from_json(document: Mapping[str, Any]) -> Bins:
    """Read what `to_json` wrote.

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    match document["kind"]:
        case "numeric":
            edges = tuple(float(edge) for edge in document["edges"])
            return NumericBins(document["name"], edges, bool(document.get("discrete", False)))
        case "categorical":
            return CategoricalBins(
                document["name"],
                tuple(document["categories"]),
                bool(document["other"]),
                int(document["entry"]),
            )
        case kind:
            raise ValueError(f"unknown kind of bins: {kind!r}")
