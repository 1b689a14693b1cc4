"""Growth of a kdq-tree: where the cells of `detectors.tree` are split.

Shapes: M rows that miss nothing, F features.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.bins import RARE


@dataclass(frozen=True)
class Split:
    """An inner node: rows at or above the cut go up."""

    axis: int  # position of the feature
    cut: float  # of a categorical feature: rank of a category by reference frequency
    below: int  # position of the next split, or -1 - cell
    above: int


def grow(values_MF: NDArray[np.float64], cells: int) -> tuple[Split, ...]:
    """Split rows into cells of about equal counts, the root first; levels take the features in turn."""
    splits: list[Split] = []
    _grow(values_MF, cells, 0, splits, itertools.count(1))
    return tuple(splits)


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
