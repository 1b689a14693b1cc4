"""Cells of a kdq-tree: bins of several features at once (Dasu, Krishnan, Venkatasubramanian and Yi 2006).

Shapes: N rows, W windows, F features of a tree, C cells (`size`). The space of the features is split by one of them, each side by the
next, and so on, always at an order statistic of the reference rows that are there. Cells are thus statistically
equivalent blocks: their true masses are Dirichlet whatever the joint distribution is, with one count per block and m + 1 in all
(Tukey 1947, Anderson 1966), just as those of intervals between quantiles are. So calibration is that of any feature. (A row at which a
split is made belongs to the side above it, where the theory drops it: an error of one row per level.)

A divergence of a tree does not tell a change of one feature from one of their dependence: `detectors.interaction` does so
for pairs. Trees are for changes of three features and more, when no feature and no pair shows anything.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.bins import MISSING, RARE, CategoricalBins
from detectors.calibration import Evidence, null_of
from detectors.columns import Categorical, Column, Columns, rows_of
from detectors.kl import kl

CATEGORIES = 64  # of a categorical feature that splits can tell apart
SHOWN = 3  # categories that a label spells out


@dataclass(frozen=True)
class Split:
    """An inner node: rows at or above the cut go up."""

    axis: int  # position of the feature
    cut: float  # of a categorical feature: rank of a category by reference frequency
    below: int  # position of the next split, or -1 - cell
    above: int


@dataclass(frozen=True)
class TreeBins:
    """A partition of everything that a few columns can hold.

    Behind the cells of the tree stands one per feature for rows that miss it; of a row that misses several, the first
    counts. A category that the reference did not have, or had rarely, ranks behind all others.
    """

    names: tuple[str, ...]
    categories: tuple[
        tuple[str, ...] | None, ...
    ]  # of each feature, most frequent first; None if it is numeric
    splits: tuple[Split, ...]  # the root first; none if all rows share one cell

    @classmethod
    def of(cls, names: Sequence[str], columns: Columns, cells: int) -> "TreeBins":
        """Split the reference into cells of about equal counts.

        Levels take the features in turn. A feature that has no split with at least `RARE` rows on either
        side passes its turn, and where none has one the cell stays whole.

        Raises
        ------
        ValueError
            If there is no name, or no cell.
        """
        if not names or cells < 1:
            raise ValueError(f"need at least one feature and one cell, not {list(names)} and {cells}")
        categories = tuple(_ranked(columns[name]) for name in names)
        values_FN = _encode(names, categories, columns)
        values_MF = values_FN[:, np.isfinite(values_FN).all(axis=0)].T
        splits: list[Split] = []
        _grow(values_MF, cells, 0, splits, itertools.count(1))
        return cls(tuple(names), categories, tuple(splits))

    @property
    def name(self) -> str:
        """All features."""
        return " × ".join(self.names)

    @property
    def size(self) -> int:
        """Number of cells: those of the tree, then one per feature for rows that miss it."""
        return self.leaves + len(self.names)

    @property
    def leaves(self) -> int:
        """Number of cells for rows that miss nothing."""
        return len(self.splits) + 1

    def assign(self, columns: Columns) -> NDArray[np.intp]:
        """Cell of each row, shape (N,). A feature that is not among the columns is missing in every row."""
        values_NF = _encode(self.names, self.categories, columns).T
        missing_NF = np.isnan(values_NF)
        node_N = np.full(len(values_NF), 0 if self.splits else -1, dtype=np.intp)
        moving = np.flatnonzero(node_N >= 0)
        while moving.size:
            node = node_N[moving]
            above = values_NF[moving, self._axis_T[node]] >= self._cut_T[node]
            node_N[moving] = np.where(above, self._above_T[node], self._below_T[node])
            moving = moving[node_N[moving] >= 0]
        cell_N: NDArray[np.intp] = np.where(
            missing_NF.any(axis=1), self.leaves + missing_NF.argmax(axis=1), -1 - node_N
        )
        return cell_N

    def count(self, columns: Columns) -> NDArray[np.int64]:
        """Rows per cell, shape (size,)."""
        return np.bincount(self.assign(columns), minlength=self.size).astype(np.int64)

    def prior(self, counts_C: NDArray[np.int64]) -> NDArray[np.float64]:
        """Pseudo-counts for the true masses given reference counts, both of shape (size,), as of `NumericBins`."""
        prior_C = np.full(self.size, 1 / self.size)
        prior_C[self.leaves :] += counts_C[self.leaves :] > 0
        return prior_C

    def labels(self) -> tuple[str, ...]:
        """Conditions of each cell for people."""
        leaf_labels = [""] * self.leaves
        whole = [(-np.inf, np.inf)] * len(self.names)
        stack = [(0 if self.splits else -1, whole)]
        while stack:
            node, box = stack.pop()
            if node < 0:
                leaf_labels[-1 - node] = self._describe(box)
                continue
            split = self.splits[node]
            low, high = box[split.axis]
            below, above = box.copy(), box.copy()
            below[split.axis], above[split.axis] = (low, split.cut), (split.cut, high)
            stack += [(split.below, below), (split.above, above)]
        return (*leaf_labels, *(f"{name} {MISSING}" for name in self.names))

    def _describe(self, box: Sequence[tuple[float, float]]) -> str:
        conditions = [
            _in_categories(name, categories, low, high)
            if categories is not None
            else _in_interval(name, self._text(low), self._text(high))
            for name, categories, (low, high) in zip(self.names, self.categories, box, strict=True)
            if (low, high) != (-np.inf, np.inf)
        ]
        return ", ".join(conditions) or "any"

    def _text(self, cut: float) -> str:
        if np.isinf(cut):
            return ""
        return f"{cut:.{self._digits}g}"

    @cached_property
    def _digits(self) -> int:
        """As few as keep the cuts of each feature apart."""
        distinct = {(split.axis, split.cut) for split in self.splits}
        digits = range(4, 18)
        return next(
            d for d in digits if d == 17 or len({(a, f"{c:.{d}g}") for a, c in distinct}) == len(distinct)
        )

    @cached_property
    def _axis_T(self) -> NDArray[np.intp]:
        return np.array([split.axis for split in self.splits], dtype=np.intp)

    @cached_property
    def _cut_T(self) -> NDArray[np.float64]:
        return np.array([split.cut for split in self.splits], dtype=np.float64)

    @cached_property
    def _below_T(self) -> NDArray[np.intp]:
        return np.array([split.below for split in self.splits], dtype=np.intp)

    @cached_property
    def _above_T(self) -> NDArray[np.intp]:
        return np.array([split.above for split in self.splits], dtype=np.intp)

    @cached_property
    def heap(self) -> tuple[int, NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]:
        """The tree as a complete one for compiled descent: depth D, axes and cuts of 2^D - 1 splits, cells of 2^D leaves.

        Splits 2i + 1 and 2i + 2 follow split i. Where the tree is less deep, nothing reaches the infinite cuts.
        """
        place_T, cells = {0: 0} if self.splits else {}, {} if self.splits else {0: 0}
        for i, split in enumerate(self.splits):  # each stands behind the one that leads to it
            for side, target in ((1, split.below), (2, split.above)):
                (place_T if target >= 0 else cells)[target if target >= 0 else -1 - target] = (
                    2 * place_T[i] + side
                )
        depth = max(place + 1 for place in cells.values()).bit_length() - 1
        axis, cut = np.zeros(2**depth - 1, dtype=np.intp), np.full(2**depth - 1, np.inf)
        cell = np.zeros(2**depth, dtype=np.intp)
        for i, place in place_T.items():
            axis[place], cut[place] = self.splits[i].axis, self.splits[i].cut
        for leaf, place in cells.items():
            levels = depth - ((place + 1).bit_length() - 1)  # down along the lower sides
            cell[((place + 1) << levels) - 2**depth] = leaf
        return depth, axis, cut, cell

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, which `from_json` reads back exactly."""
        return {
            "kind": "tree",
            "names": list(self.names),
            "categories": [None if ranked is None else list(ranked) for ranked in self.categories],
            "splits": [[split.axis, split.cut, split.below, split.above] for split in self.splits],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "TreeBins":
        """Read what `to_json` wrote."""
        return cls(
            tuple(document["names"]),
            tuple(None if ranked is None else tuple(ranked) for ranked in document["categories"]),
            tuple(
                Split(int(axis), float(cut), int(below), int(above))
                for axis, cut, below, above in document["splits"]
            ),
        )


def count_trees(trees: Sequence[TreeBins], columns: Columns, window_rows: int) -> NDArray[np.int64]:
    """Count consecutive windows into many trees at once, compiled: equal to each tree's own counts side by side.

    Rows behind the last whole window are left out.

    Returns
    -------
    int array, shape (W, sum of sizes)
    """
    from detectors.tree_kernel import count_trees as run  # numba takes a while to import

    places: dict[tuple[str, tuple[str, ...] | None], int] = {}  # a feature's column, shared by the trees
    features = [
        np.array(
            [places.setdefault(axis, len(places)) for axis in zip(tree.names, tree.categories, strict=True)]
        )
        for tree in trees
    ]
    values_FN = _encode([name for name, _ in places], [ranked for _, ranked in places], columns)
    counts_WC = np.zeros((rows_of(columns) // window_rows, sum(tree.size for tree in trees)), dtype=np.int64)
    if not trees:
        return counts_WC
    depths, axes, cuts, cells = zip(*(tree.heap for tree in trees), strict=True)
    run(
        values_FN,
        window_rows,
        np.array(depths),
        np.concatenate([feature[axis] for feature, axis in zip(features, axes, strict=True)]).astype(
            np.uintp
        ),
        np.concatenate(cuts),
        np.concatenate(cells),
        np.array([len(tree.names) for tree in trees]),
        np.array([tree.size for tree in trees]),
        np.concatenate(features).astype(np.uintp),
        counts_WC,
    )
    return counts_WC


def judge_tree(
    tree: TreeBins, reference_C: NDArray[np.int64], window_C: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Compare a window with the reference by the rows that miss nothing; gaps are their own features' business.

    Parameters
    ----------
    tree
        Whose cells were counted.
    reference_C, window_C
        Rows per cell.

    Returns
    -------
    KL(window || reference) in nats, what exceeds its mean when nothing has moved, and the p-value of independent rows.
    """
    reference, window = reference_C[: tree.leaves], window_C[: tree.leaves]
    if tree.leaves < 2 or not reference.any() or not window.any():
        return 0.0, 0.0, 1.0
    nats = float(kl(window, reference))
    null = null_of(Evidence.of(reference, np.full(tree.leaves, 1 / tree.leaves)), int(window.sum()))
    return nats, max(nats - float(null.mean), 0.0), float(null.p_value(nats))


def _ranked(column: Column) -> tuple[str, ...] | None:
    if not isinstance(column, Categorical):
        return None
    return CategoricalBins.of("", column, CATEGORIES).categories


def _encode(
    names: Sequence[str], categories: Sequence[tuple[str, ...] | None], columns: Columns
) -> NDArray[np.float64]:
    values_FN = np.full((len(names), rows_of(columns)), np.nan)
    for name, ranked, values_N in zip(names, categories, values_FN, strict=True):
        column = columns.get(name)
        if column is None:
            continue
        if isinstance(column, Categorical) == (ranked is None):
            kinds = ("numeric", "categorical") if ranked is None else ("categorical", "numeric")
            raise TypeError(f"feature {name!r} is {kinds[0]} in the reference, {kinds[1]} here")
        if isinstance(column, Categorical):
            rank = {category: float(i) for i, category in enumerate(ranked or ())}
            # The appended entry is what code -1 (missing) reads.
            ranks = [*(rank.get(value, float(len(rank))) for value in column.vocabulary), np.nan]
            values_N[:] = np.array(ranks)[column.codes]
        else:
            np.copyto(values_N, column, where=np.isfinite(column))
    return values_FN


def _grow(
    values_MF: NDArray[np.float64], wanted: int, level: int, splits: list[Split], leaves: Iterator[int]
) -> int:
    """Append the splits of a cell's rows, depth first; return the position of the first, or -1 - cell."""
    found = _split(values_MF, wanted, level) if wanted > 1 else None
    if found is None:
        return -next(leaves)
    axis, cut = found
    position = len(splits)
    splits.append(Split(axis, cut, 0, 0))  # holds the place
    above_M = values_MF[:, axis] >= cut
    below = _grow(values_MF[~above_M], wanted // 2, level + 1, splits, leaves)
    above = _grow(values_MF[above_M], wanted - wanted // 2, level + 1, splits, leaves)
    splits[position] = Split(axis, cut, below, above)
    return position


def _split(values_MF: NDArray[np.float64], wanted: int, level: int) -> tuple[int, float] | None:
    """Axis and cut that halve the rows of a cell, as nearly as ties allow; None where none does."""
    rows, features = values_MF.shape
    for axis in ((level + turn) % features for turn in range(features)):
        values_M = values_MF[:, axis]
        rank = rows * (wanted // 2) // wanted
        if not RARE <= rank <= rows - RARE:
            return None
        cut = float(np.partition(values_M, rank)[rank])
        next_cut = float(values_M[values_M > cut].min(initial=np.inf))
        below, next_below = (int(np.count_nonzero(values_M < value)) for value in (cut, next_cut))
        if next_below - rank < rank - below:
            cut, below = next_cut, next_below
        if RARE <= below <= rows - RARE:
            return axis, cut
    return None


def _in_interval(name: str, low: str, high: str) -> str:
    if not low:
        return f"{name} < {high}"
    return f"{name} in [{low}, {high})" if high else f"{name} >= {low}"


def _in_categories(name: str, ranked: Sequence[str], low: float, high: float) -> str:
    first = 0 if np.isinf(low) else int(low)
    if np.isinf(high):  # open to whatever the reference did not have
        return f"{name} not in {_set(ranked[:first])}"
    inside = ranked[first : int(high)]
    return f"{name} = {inside[0]}" if len(inside) == 1 else f"{name} in {_set(inside)}"


def _set(categories: Sequence[str]) -> str:
    more = len(categories) - SHOWN
    return "{" + ", ".join(categories[:SHOWN]) + (f" and {more} more" if more > 0 else "") + "}"
