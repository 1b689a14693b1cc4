"""Labelled rows: what a learner learns from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detectors.columns import Columns, concat, take


@dataclass(frozen=True, eq=False)
class Rows:
    """Features, target and place in the sample log of N rows."""

    columns: Columns
    target: NDArray[np.float64]  # (N,) in target units, or the class index; NaN = no label yet
    position: NDArray[np.int64]  # (N,) position in the sample log

    def __post_init__(self) -> None:
        lengths = {len(self.target), len(self.position), *map(len, self.columns.values())}
        if len(lengths) > 1:
            raise ValueError(f"rows: columns, target and position differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Rows:
        """Return the rows at `index`, in that order; a mask selects."""
        index = np.flatnonzero(index) if index.dtype == np.bool_ else index
        return Rows(take(self.columns, index), self.target[index], self.position[index])

    def only(self, names: Iterable[str]) -> Rows:
        """Return the rows with no other columns than these, as far as they exist."""
        return replace(self, columns={name: self.columns[name] for name in names if name in self.columns})

    def labelled(self) -> Rows:
        """Return the rows whose target is a finite number."""
        finite = np.isfinite(self.target)
        return self if finite.all() else self.take(finite)


def concat_rows(parts: Sequence[Rows]) -> Rows:
    """Join rows of the same columns, in order."""
    return Rows(
        concat([part.columns for part in parts]),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.position for part in parts]),
    )
