"""River's detectors as monitors: one per feature, any of them alarms, and then all start afresh.

They read numbers, have no reference and are not made for holes or categories. So that they can be compared on any
stream, a number is scaled by the reference's mean and standard deviation (HDDM, which needs values between 0 and 1: it
becomes its rank in the reference), and a category becomes the share that it had in the reference. A value that is
missing is not shown to them: one NaN would blind ADWIN for ever. The reference's last rows are shown to them
first, since a detector that has seen nothing finds nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detectors.columns import Categorical, Column, Columns, rows_of, take

if TYPE_CHECKING:
    from river.base import BinaryDriftDetector, DriftDetector

Scale = Callable[[Column], NDArray[np.float64]]

WARM_UP = 1000  # last rows of the reference that are shown first


class RiverMonitor:
    """A detector of river's per feature.

    Parameters
    ----------
    fresh
        Makes one of them.
    ranks
        Whether it needs values between 0 and 1.
    warm_up
        Last rows of the reference that each is shown first, without counting alarms.
    """

    def __init__(
        self,
        reference: Columns,
        fresh: "Callable[[], DriftDetector | BinaryDriftDetector]",
        *,
        ranks: bool = False,
        warm_up: int = WARM_UP,
    ) -> None:
        self._fresh: Callable[[], Any] = fresh  # river's two bases differ in what `update` is said to take
        self._scales = scales_of(reference, ranks=ranks)
        self._detectors = [fresh() for _ in self._scales]
        rows = rows_of(reference)
        self.update(take(reference, slice(max(rows - warm_up, 0), rows)))

    def update(self, columns: Columns) -> Sequence[int]:
        """Take rows; see `Monitor`. A feature that is not among the columns is missing."""
        values_NF = scaled(self._scales, columns)
        alarms = []
        for row, (values, present) in enumerate(
            zip(values_NF.tolist(), np.isfinite(values_NF).tolist(), strict=True)
        ):
            alarm = False
            for detector, value, there in zip(self._detectors, values, present, strict=True):
                if there:
                    detector.update(value)
                    alarm = alarm or detector.drift_detected
            if alarm:
                alarms.append(row)
                self._detectors = [self._fresh() for _ in self._scales]
        return alarms

    def copy(self) -> "RiverMonitor":
        """Return a monitor in the same state that goes its own way."""
        return deepcopy(self)


def adwin(reference: Columns, /, *, window_rows: int = 0, delta: float = 0.002) -> RiverMonitor:
    """ADWIN (Bifet and Gavalda 2007), at river's defaults unless told otherwise."""
    from river.drift import ADWIN

    del window_rows
    return RiverMonitor(reference, lambda: ADWIN(delta=delta))  # type: ignore[no-untyped-call]  # compiled


def page_hinkley(
    reference: Columns, /, *, window_rows: int = 0, threshold: float = 50.0, delta: float = 0.005
) -> RiverMonitor:
    """Page-Hinkley's cumulative sum, both ways, at river's defaults unless told otherwise."""
    from river.drift import PageHinkley

    del window_rows
    return RiverMonitor(reference, lambda: PageHinkley(threshold=threshold, delta=delta))


def kswin(reference: Columns, /, *, window_rows: int = 0, alpha: float = 0.005) -> RiverMonitor:
    """KSWIN (Raab et al. 2020), at river's defaults unless told otherwise. Slow: a test per row and feature."""
    from river.drift import KSWIN

    del window_rows
    return RiverMonitor(reference, lambda: KSWIN(alpha=alpha, seed=0))


def hddm_a(reference: Columns, /, *, window_rows: int = 0, confidence: float = 0.001) -> RiverMonitor:
    """HDDM by Hoeffding's bound on averages (Frias-Blanco et al. 2015), both ways."""
    from river.drift.binary import HDDMA

    del window_rows
    return RiverMonitor(
        reference,
        lambda: HDDMA(drift_confidence=confidence, two_sided_test=True),  # type: ignore[no-untyped-call]  # unannotated
        ranks=True,
    )


def hddm_w(reference: Columns, /, *, window_rows: int = 0, confidence: float = 0.001) -> RiverMonitor:
    """HDDM by McDiarmid's bound on weighted averages (Frias-Blanco et al. 2015), both ways."""
    from river.drift.binary import HDDMW

    del window_rows
    return RiverMonitor(
        reference,
        lambda: HDDMW(drift_confidence=confidence, two_sided_test=True),  # type: ignore[no-untyped-call]  # unannotated
        ranks=True,
    )


def scales_of(reference: Columns, *, ranks: bool = False) -> dict[str, Scale]:
    """Return what makes comparable numbers of each feature's values; missing is NaN."""
    return {name: _scale_of(column, ranks=ranks) for name, column in reference.items()}


def scaled(scales: Mapping[str, Scale], columns: Columns) -> NDArray[np.float64]:
    """Return the numbers of some rows, shape (N, F); of a feature that is not there NaN."""
    values_NF = np.full((rows_of(columns), len(scales)), np.nan)
    for f, (name, scale) in enumerate(scales.items()):
        if name in columns:
            values_NF[:, f] = scale(columns[name])
    return values_NF


def _scale_of(column: Column, *, ranks: bool) -> Scale:
    if isinstance(column, Categorical):
        present = column.codes[column.codes >= 0]
        shares = np.bincount(present, minlength=len(column.vocabulary)) / max(present.size, 1)
        share_of = dict(zip(column.vocabulary, shares.tolist(), strict=True))
        return lambda values: _shares(values, share_of)
    sorted_N = np.sort(column[np.isfinite(column)])
    if ranks:
        return lambda values: _ranks(values, sorted_N)
    mean = float(sorted_N.mean()) if sorted_N.size else 0.0
    deviation = float(sorted_N.std()) if sorted_N.size else 0.0
    return lambda values: (_numbers(values) - mean) / (deviation or 1.0)


def _shares(values: Column, share_of: dict[str, float]) -> NDArray[np.float64]:
    if not isinstance(values, Categorical):
        raise TypeError("a feature is categorical in the reference, numeric here")
    # The appended NaN is what code -1 (missing) reads.
    return np.array([*(share_of.get(value, 0.0) for value in values.vocabulary), np.nan])[values.codes]


def _ranks(values: Column, sorted_N: NDArray[np.float64]) -> NDArray[np.float64]:
    numbers = _numbers(values)
    below = np.searchsorted(sorted_N, numbers, "left") + np.searchsorted(sorted_N, numbers, "right")
    return np.where(np.isfinite(numbers), below / (2 * max(sorted_N.size, 1)), np.nan)


def _numbers(values: Column) -> NDArray[np.float64]:
    if isinstance(values, Categorical):
        raise TypeError("a feature is numeric in the reference, categorical here")
    return np.where(np.isfinite(values), values, np.nan)
