"""Cells of a kdq-tree: bins of several features at once (Dasu, Krishnan, Venkatasubramanian and Yi 2006).

Shapes: N rows, W windows, F features of a tree, C cells (`size`). The space of the features is split by one of them, each side by the
next, and so on, always at an order statistic of the reference rows that are there. Cells are thus statistically
equivalent blocks: their true masses are Dirichlet whatever the joint distribution is, with one count per block and m + 1 in all
(Tukey 1947, Anderson 1966), just as those of intervals between quantiles are. So calibration is that of any feature. (A row at which a
split is made belongs to the side above it, where the theory drops it: an error of one row per level.)

A divergence of a tree does not tell a change of one feature from one of their dependence: `detectors.interaction` does so
for pairs. Trees are for changes of three features and more, when no feature and no pair shows anything. A detector watches such a group as
a further feature, in the reference and in each window alike:

    tree = TreeBins.of(("a", "b", "c"), reference, 32)
    profile = detector.profile({**reference, tree.name: tree.column(reference)})
    drift = detector.compare(profile, profile.count({**window, tree.name: tree.column(window)}))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.bins import MISSING, CategoricalBins
from detectors.calibration import Evidence, null_of
from detectors.columns import Categorical, Column, Columns, rows_of
from detectors.dispersion import INDEPENDENT, Dispersion, dispersion_of
from detectors.kl import kl
from detectors.tree_growth import Split, grow
from detectors.tree_words import cell_labels

CATEGORIES = 64  # of a categorical feature that splits can tell apart


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
        return cls(tuple(names), categories, grow(values_MF, cells))

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
        cells = cell_labels(self.names, self.categories, self.splits)
        return (*cells, *(f"{name} {MISSING}" for name in self.names))

    def column(self, columns: Columns) -> Categorical:
        """Return the cell of each row as a categorical column: a feature like any other, for whatever watches features."""
        return Categorical(self.assign(columns).astype(np.int32), self.labels())

    def dispersion(self, columns: Columns) -> Dispersion:
        """How much more the cells of rows that miss nothing vary than those of independent rows, from rows in stream order."""
        return dispersion_of(self.assign(columns), self.leaves)

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
    tree: TreeBins,
    reference_C: NDArray[np.int64],
    window_C: NDArray[np.int64],
    effects: Dispersion = INDEPENDENT,
) -> tuple[float, float, float]:
    """Compare a window with the reference by the rows that miss nothing; gaps are their own features' business.

    Parameters
    ----------
    tree
        Whose cells were counted.
    reference_C, window_C
        Rows per cell.
    effects
        From `TreeBins.dispersion` of the reference, where rows depend on each other.

    Returns
    -------
    KL(window || reference) in nats, what exceeds its mean when nothing has moved, and the p-value.
    """
    reference, window = reference_C[: tree.leaves], window_C[: tree.leaves]
    if tree.leaves < 2 or not reference.any() or not window.any():
        return 0.0, 0.0, 1.0
    nats = float(kl(window, reference))
    evidence = Evidence.of(reference, np.full(tree.leaves, 1 / tree.leaves))
    null = null_of(evidence, int(window.sum())).dispersed(effects, evidence.degrees)
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
