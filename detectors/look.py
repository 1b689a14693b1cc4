"""Look: a numeric feature of a window beside what its reference says about values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.bins import NumericBins
from detectors.fault import Case, Fault, Reference

LEAST = 5  # different edges that a test on the shape of the reference needs
ON_GRID = 0.98  # of the rows are multiples of a step: the others may be exceptions


@dataclass(frozen=True, eq=False)
class Look:
    """What the tests need: the case, its reference, and the most common values of the window."""

    case: Case
    reference: Reference
    values: NDArray[np.float64]  # different values, rising
    rows: NDArray[np.int64]

    @classmethod
    def at(cls, case: Case) -> Look:
        """Look at a numeric feature."""
        assert isinstance(case.bins, NumericBins)
        values_V, rows_V = np.unique(case.finite, return_counts=True)
        return cls(case, Reference.of(case.bins, case.reference), values_V, rows_V)

    def bin_of(self, value: float) -> int:
        """Bin that a value falls into."""
        return int(self.case.bins.assign(np.array([value]))[0])

    def within(self, values: NDArray[np.float64], margin: float) -> float:
        """Share of values between the reference's outer edges, or at most this far outside."""
        low, high = self.reference.edges[0] - margin, self.reference.edges[-1] + margin
        return float(((values >= low) & (values <= high)).sum() / max(values.size, 1))

    def undone(self, undo: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> float:
        """Share of the move that is gone when a change of values is undone."""
        return self.case.explained(self.case.bins.count(undo(self.case.finite)))

    def fault(self, kind: str, share: float, sentence: str) -> Fault:
        """Return a fault of this column."""
        return Fault(kind, self.case.name, share, f"column {self.case.name!r} {sentence}")
